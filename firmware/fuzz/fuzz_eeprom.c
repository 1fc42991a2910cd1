/* libFuzzer: a board boots from an EEPROM that holds anything, and lives on. */
#include "life.h"

#include "../core/crc.h"
#include "../test/host.h"

#include <stddef.h>
#include <string.h>

enum { RECORD = 16, BLOCK = 32, RING_AT = 16, RING_END = 3472, BLOCKS_END = 4048 };

/* Bytes of a fuzzer have a right checksum once in 65536 times: here more often. */
static void seal(uint16_t at, uint16_t end, uint8_t n)
{
	for (; at < end; at = (uint16_t)(at + n))
		if (fake.ee[at] != 0xff)
			set_u16(fake.ee + at, (uint8_t)(n - 2), crc16(fake.ee + at, (uint8_t)(n - 2)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t image;

	if (size < 4)
		return 0;
	fake_new();
	/* The image lies where the second byte says; the rest of the input is life. */
	image = (size_t)(data[1] | data[2] << 8) % (HAL_EE_SIZE + 1);
	if (image > size - 3)
		image = size - 3;
	memcpy(fake.ee + (data[0] & 4 ? HAL_EE_SIZE - image : 0), data + 3, image);
	if (data[0] & 1)
		seal(RING_AT, RING_END, RECORD);
	if (data[0] & 2)
		seal(RING_END, BLOCKS_END, BLOCK);
	fake_boot(RESET_POWER);
	KEEP(board_answers(300));
	KEEP(!fake.on_count);
	life_go(data + 3 + image, size - 3 - image);
	return 0;
}
