/* The millisecond: timer 1. All that must hold when the main loop does not hangs here. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <util/atomic.h>

#include "../core/hal.h"
#include "avr.h"

enum { PRESCALER = 64 };

static volatile uint32_t now_ms;
static volatile bool passed;

void tick_init(void)
{
	/* CTC; the mode comes before OCR1A for simavr's sake. */
	TCCR1A = 0;
	TCCR1B = _BV(WGM12) | _BV(CS11) | _BV(CS10);
	OCR1A = F_CPU / PRESCALER / 1000 - 1;
	TCNT1 = 0;
	TIFR1 = _BV(OCF1A);
	TIMSK1 = _BV(OCIE1A);
}

ISR(TIMER1_COMPA_vect)
{
	now_ms++;
	passed = true;
	motor_tick();
	drop_tick();
	door_tick();
	adc_tick();
}

bool tick_waiting(void)
{
	return passed;
}

bool tick_take(void)
{
	bool was;

	ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
		was = passed;
		passed = false;
	}
	return was;
}

uint32_t hal_now_ms(void)
{
	uint32_t ms;

	ATOMIC_BLOCK(ATOMIC_RESTORESTATE)
		ms = now_ms;
	return ms;
}
