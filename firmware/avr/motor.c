/* The motor matrix: power, its time limit, home switches. */
#include <util/atomic.h>
#include <util/delay.h>

#include "../core/hal.h"
#include "../core/proto.h"
#include "avr.h"
#include "pins.h"

/* A column rises through its pull-up of 2.2 kilohm: this is enough for 900 pF of wire. */
#define HOME_SETTLE_US 2

static uint16_t left_ms;	/* until the tick takes the power away; 0: there is none */
static volatile bool tripped;

static inline void all_off(void)
{
	ENABLE_PORT &= (uint8_t)~_BV(ENABLE_BIT);
	ROW_PORT &= (uint8_t)~ROW_MASK;
	COL_PORT = 0;
	COL_HI_PORT &= (uint8_t)~COL_HI_MASK;
	left_ms = 0;
}

void motor_init(void)
{
	all_off();
	ROW_DDR |= ROW_MASK;
	COL_DDR = 0xff;
	COL_HI_DDR |= COL_HI_MASK;
	ENABLE_DDR |= _BV(ENABLE_BIT);

	STROBE_PORT |= STROBE_MASK;
	STROBE_DDR |= STROBE_MASK;
	HOME_PORT = 0xff;
	HOME_HI_PORT |= HOME_HI_MASK;
}

/* This limit holds whatever the main loop does. */
void motor_tick(void)
{
	if (left_ms == 0 || --left_ms != 0)
		return;
	all_off();
	tripped = true;
}

void hal_motor_on(uint8_t row, uint16_t cols, uint16_t max_ms)
{
	if (max_ms == 0 || max_ms > LIM_MAX_TURN_MS)
		max_ms = LIM_MAX_TURN_MS;
	ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
		all_off();
		tripped = false;
		left_ms = max_ms;
		ROW_PORT |= (uint8_t)(1u << row) & ROW_MASK;
		COL_PORT = (uint8_t)cols;
		COL_HI_PORT |= (uint8_t)(cols >> 8) & COL_HI_MASK;
		ENABLE_PORT |= _BV(ENABLE_BIT);
	}
}

void hal_motor_only(uint16_t cols)
{
	ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
		COL_PORT &= (uint8_t)cols;
		COL_HI_PORT &= (uint8_t)(cols >> 8) | (uint8_t)~COL_HI_MASK;
		if (COL_PORT == 0 && (COL_HI_PORT & COL_HI_MASK) == 0)
			all_off();
	}
}

void hal_motor_off(void)
{
	ATOMIC_BLOCK(ATOMIC_RESTORESTATE)
		all_off();
}

bool hal_motor_tripped(void)
{
	return tripped;
}

/* Only the main loop writes the strobes, so interrupts may stay on. */
uint16_t hal_home(uint8_t row)
{
	uint16_t open;

	STROBE_PORT &= (uint8_t)~((1u << row) & STROBE_MASK);
	_delay_us(HOME_SETTLE_US);
	open = HOME_PIN | (uint16_t)(HOME_HI_PIN & HOME_HI_MASK) << 8;
	STROBE_PORT |= STROBE_MASK;
	return (uint16_t)~open & (HOME_HI_MASK << 8 | 0xff);
}
