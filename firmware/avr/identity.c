/* Who this board is. The serial number is written into the image before it is
 * flashed, so the compiler must not know it: it is read from flash. */
#include <avr/pgmspace.h>
#include <stddef.h>

#include "../core/hal.h"
#include "../core/identity.h"
#include "../core/proto.h"

struct identity {
	char magic[8];
	uint32_t build;
	uint8_t proto;
	uint8_t spare[3];
	uint64_t serial;
};

_Static_assert(offsetof(struct identity, build) == IDENTITY_BUILD, "identity.h");
_Static_assert(offsetof(struct identity, proto) == IDENTITY_PROTO, "identity.h");
_Static_assert(offsetof(struct identity, serial) == IDENTITY_SERIAL, "identity.h");
_Static_assert(sizeof(struct identity) == IDENTITY_LEN, "identity.h");

#define SERIAL_UNSET UINT64_MAX

/* The Makefile puts the section at IDENTITY_AT and keeps it. */
extern const struct identity identity;
const struct identity identity __attribute__((section(".identity"))) = {
	.magic = IDENTITY_MAGIC,
	.build = BUILD_ID,
	.proto = PROTO_VERSION,
	.spare = { 0xff, 0xff, 0xff },
	.serial = SERIAL_UNSET,
};

uint64_t hal_serial(void)
{
	uint64_t serial;

	memcpy_P(&serial, &identity.serial, sizeof serial);
	return serial == SERIAL_UNSET ? 0 : serial;
}

uint32_t hal_build(void)
{
	return BUILD_ID;
}
