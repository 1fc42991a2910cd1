/* The three checksums of the board, bit by bit: none is computed often. */
#ifndef CRC_H
#define CRC_H

#include <stdint.h>

/* CRC-16/MCRF4XX, of frames and of what lies in EEPROM; avr-libc calls it
 * _crc_ccitt_update. "123456789" gives 0x6f91. */
static inline uint16_t crc16(const uint8_t *p, uint8_t n)
{
	uint16_t crc = 0xffff;

	while (n--) {
		uint8_t b = (uint8_t)(*p++ ^ crc);
		b ^= (uint8_t)(b << 4);
		crc = (uint16_t)((((uint16_t)b << 8) | (crc >> 8)) ^ (uint8_t)(b >> 4) ^ ((uint16_t)b << 3));
	}
	return crc;
}

/* CRC-32 (ISO-HDLC, as in zip), the name of a configuration. "123456789" gives 0xcbf43926. */
static inline uint32_t crc32(const uint8_t *p, uint8_t n)
{
	uint32_t crc = 0xffffffff;

	while (n--) {
		crc ^= *p++;
		for (uint8_t i = 0; i < 8; i++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
	}
	return ~crc;
}

/* CRC-8 of the SHT3x: polynomial 0x31 from 0xff. be ef gives 0x92. */
static inline uint8_t crc8(const uint8_t *p, uint8_t n)
{
	uint8_t crc = 0xff;

	while (n--) {
		crc ^= *p++;
		for (uint8_t i = 0; i < 8; i++)
			crc = (uint8_t)(crc & 0x80 ? crc << 1 ^ 0x31 : crc << 1);
	}
	return crc;
}

#endif
