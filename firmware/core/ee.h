/* One block of EEPROM at a time, written byte by byte and read back.
 *
 * A block ends with its checksum, and bytes are written in order: a power cut
 * leaves a block that is whole or one that does not pass. It knows nothing of
 * what a block says. */
#ifndef EE_H
#define EE_H

#include <stdbool.h>
#include <stdint.h>

enum { EE_BLOCK = 32 };		/* bytes of the largest block */

void ee_init(void);
void ee_seal(uint8_t *block, uint8_t n);			/* writes the crc16 into the last two bytes */
bool ee_load(uint16_t addr, uint8_t *block, uint8_t n);		/* false: the checksum is wrong */
void ee_write(uint16_t addr, const uint8_t *block, uint8_t n);	/* starts; what was in hand is given up */
void ee_poll(void);
bool ee_busy(void);
bool ee_whole(void);		/* the last block reads back as it was given */

#endif
