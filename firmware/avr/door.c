/* Door switch, lock and light. */
#include <util/atomic.h>

#include "../core/hal.h"
#include "../core/proto.h"
#include "avr.h"
#include "pins.h"

enum { DOOR_MS = 20 };		/* the switch bounces for 5; a person takes longer */
enum { LIGHT_STEPS = 20 };	/* of timer 3 for a percent: 2 MHz / 2000 is 1 kHz */

static volatile bool door_open;
static uint8_t door_ms;		/* the switch has said otherwise for so long */

static uint16_t lock_ms;	/* until the tick takes the coil's power away */

static bool door_pin(void)
{
	return DOOR_PIN & _BV(DOOR_BIT);
}

void door_init(void)
{
	LOCK_PORT &= (uint8_t)~_BV(LOCK_BIT);
	LOCK_DDR |= _BV(LOCK_BIT);
	DOOR_PORT |= _BV(DOOR_BIT);

	/* Timer 3, mode 14: fast PWM to ICR3. The mode comes first, because ICR3 may
	 * only be written in a mode that uses it; the clock, 2 MHz, comes last. */
	TCCR3A = _BV(WGM31);
	TCCR3B = _BV(WGM33) | _BV(WGM32);
	ICR3 = 100 * LIGHT_STEPS - 1;
	TCCR3B |= _BV(CS31);
	hal_light(0);
	LIGHT_DDR |= _BV(LIGHT_BIT);

	door_open = door_pin();
}

static void switch_tick(void)
{
	if (door_pin() == door_open) {
		door_ms = 0;
		return;
	}
	if (++door_ms < DOOR_MS)
		return;
	door_open = !door_open;
	door_ms = 0;
}

/* This limit holds whatever the main loop does. */
static void lock_tick(void)
{
	if (lock_ms == 0 || --lock_ms != 0)
		return;
	LOCK_PORT &= (uint8_t)~_BV(LOCK_BIT);
}

void door_tick(void)
{
	switch_tick();
	lock_tick();
}

bool hal_door_open(void)
{
	return door_open;
}

void hal_lock(uint16_t ms)
{
	if (ms > LIM_MAX_LOCK_MS)
		ms = LIM_MAX_LOCK_MS;
	ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
		lock_ms = ms;
		if (ms != 0)
			LOCK_PORT |= _BV(LOCK_BIT);
		else
			LOCK_PORT &= (uint8_t)~_BV(LOCK_BIT);
	}
}

bool hal_lock_open(void)
{
	return LOCK_PORT & _BV(LOCK_BIT);
}

/* Fast PWM cannot be off or on for a whole period: at the ends the pin is a plain one. */
void hal_light(uint8_t percent)
{
	if (percent > 0 && percent < 100) {
		OCR3A = percent * LIGHT_STEPS - 1;
		TCCR3A |= _BV(COM3A1);
		return;
	}
	if (percent == 0)
		LIGHT_PORT &= (uint8_t)~_BV(LIGHT_BIT);
	else
		LIGHT_PORT |= _BV(LIGHT_BIT);
	TCCR3A &= (uint8_t)~_BV(COM3A1);
}
