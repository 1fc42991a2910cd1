/* Numbers as they lie on the line and in EEPROM: little-endian. */
#ifndef BYTES_H
#define BYTES_H

#include <stdbool.h>
#include <stdint.h>

static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | (uint16_t)p[1] << 8);
}

static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static inline void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static inline void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)v);
	put16(p + 2, (uint16_t)(v >> 16));
}

/* Sets of slots: slot n is bit (n-1)%8 of byte (n-1)/8. */
static inline bool set_has(const uint8_t *set, uint8_t slot)
{
	slot--;
	return set[slot >> 3] >> (slot & 7) & 1;
}

static inline void set_put(uint8_t *set, uint8_t slot, bool in)
{
	slot--;
	if (in)
		set[slot >> 3] |= (uint8_t)(1 << (slot & 7));
	else
		set[slot >> 3] &= (uint8_t)~(1 << (slot & 7));
}

#endif
