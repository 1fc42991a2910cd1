/* EEPROM, without waiting: a byte takes 3.4 ms by itself. */
#include <avr/io.h>
#include <util/atomic.h>

#include "../core/hal.h"

_Static_assert(E2END + 1 == HAL_EE_SIZE, "the core's map is for this EEPROM");

bool hal_ee_ready(void)
{
	return !(EECR & _BV(EEPE));
}

uint8_t hal_ee_read(uint16_t addr)
{
	while (!hal_ee_ready())
		;	/* 3.4 ms at most: the chip reads nothing while it writes */
	EEAR = addr;
	EECR |= _BV(EERE);
	return EEDR;
}

void hal_ee_write(uint16_t addr, uint8_t value)
{
	EEAR = addr;
	EEDR = value;
	/* EEPE counts only within four cycles of EEMPE. */
	ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
		EECR = _BV(EEMPE);
		EECR |= _BV(EEPE);
	}
}
