/* Why the board started, and how it starts again. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/wdt.h>

#include "../core/hal.h"
#include "../core/proto.h"
#include "avr.h"

#define BOOTLOADER_AT 0x3e000UL	/* byte address: a boot section of 4096 words */

/* What a reset leaves alone. */
static uint8_t flags __attribute__((section(".noinit")));	/* MCUSR as it was */
static uint32_t again __attribute__((section(".noinit")));	/* RESTART_KEY: hal_restart was called */

static inline bool bootloader_fitted(void)
{
	uint16_t first = pgm_read_word_far(BOOTLOADER_AT);

	RAMPZ = 0;	/* as a reset leaves it */
	return first != 0xffff;
}

/* Before anything else: after its own reset the watchdog goes on with 16 ms. Naked
 * code in .init3 has a stack and a zero register, but no variables yet. */
void early(void) __attribute__((naked, used, section(".init3")));
void early(void)
{
	cli();
	flags = MCUSR;
	MCUSR = 0;
	wdt_disable();
	if (again != RESTART_KEY || flags & _BV(PORF)) {
		again = 0;
	} else {
		again = 0;
		flags = _BV(EXTRF);
		/* A reset starts us, BOOTRST being off, so RESTART is the only way from us
		 * to the bootloader. Reached with MCUSR 0 it waits for its programmer. */
		if (bootloader_fitted())
			__asm__ volatile("jmp %0" : : "i"(BOOTLOADER_AT));
	}
}

/* The bootloader leaves 0: it was asked for from outside, and has just written us or
 * heard nobody. */
uint8_t hal_reset_cause(void)
{
	if (flags & _BV(PORF))
		return RESET_POWER;	/* BORF is often set as well */
	if (flags & _BV(BORF))
		return RESET_BROWN_OUT;
	if (flags & _BV(WDRF))
		return RESET_WATCHDOG;
	return RESET_EXTERNAL;
}

void hal_restart(void)
{
	hal_motor_off();
	hal_lock(0);
	cli();
	again = RESTART_KEY;
	wdt_enable(WDTO_15MS);
	wdt_reset();	/* simavr counts by the new time from here only */
	uart_drain();	/* the answer to RESTART: under 1 ms */
	for (;;)
		;
}
