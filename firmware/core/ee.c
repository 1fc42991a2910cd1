#include "ee.h"
#include "bytes.h"
#include "crc.h"
#include "hal.h"

#include <string.h>

enum { TRIES = 3 };	/* writes of one byte before its cell is given up */

static uint8_t image[EE_BLOCK], size, pos, tries;
static uint16_t base;
static bool busy, whole;

void ee_init(void)
{
	busy = whole = false;
}

void ee_seal(uint8_t *block, uint8_t n)
{
	put16(block + n - 2, crc16(block, (uint8_t)(n - 2)));
}

bool ee_load(uint16_t addr, uint8_t *block, uint8_t n)
{
	for (uint8_t i = 0; i < n; i++)
		block[i] = hal_ee_read((uint16_t)(addr + i));
	return crc16(block, (uint8_t)(n - 2)) == get16(block + n - 2);
}

void ee_write(uint16_t addr, const uint8_t *block, uint8_t n)
{
	memcpy(image, block, n);
	base = addr;
	size = n;
	pos = tries = 0;
	busy = true;
	whole = false;
}

static bool stands(uint8_t i)
{
	return hal_ee_read((uint16_t)(base + i)) == image[i];
}

static bool all_stand(void)
{
	for (uint8_t i = 0; i < size; i++)
		if (!stands(i))
			return false;
	return true;
}

/* A byte that stands already is not written: cells wear. */
void ee_poll(void)
{
	if (!busy || !hal_ee_ready())
		return;
	while (pos < size && stands(pos)) {
		pos++;
		tries = 0;
	}
	if (pos == size || tries++ == TRIES) {
		whole = all_stand();
		busy = false;
		return;
	}
	hal_ee_write((uint16_t)(base + pos), image[pos]);
}

bool ee_busy(void)
{
	return busy;
}

bool ee_whole(void)
{
	return whole;
}
