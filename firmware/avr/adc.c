/* Current of the common motor line: one conversion for each tick, read by the next.
 * There is no interrupt at its end, so it never wakes the core. */
#include <util/atomic.h>

#include "../core/hal.h"
#include "avr.h"
#include "pins.h"

static volatile uint16_t sample;	/* 0 to 1023 */

void adc_init(void)
{
	ADMUX = _BV(REFS0) | CURRENT_CHANNEL;	/* against AVCC, 5 V */
	ADCSRB = 0;
	DIDR0 = _BV(CURRENT_CHANNEL);
	ADCSRA = _BV(ADEN) | _BV(ADPS2) | _BV(ADPS1) | _BV(ADPS0);	/* 125 kHz: 104 us each */
}

void adc_tick(void)
{
	if (ADCSRA & _BV(ADSC))		/* the very first takes longer, but not 1 ms */
		return;
	sample = ADC;
	ADCSRA |= _BV(ADSC);
}

uint16_t hal_motor_ma(void)
{
	uint16_t v;

	ATOMIC_BLOCK(ATOMIC_RESTORESTATE)
		v = sample;
	return (uint16_t)(v * 5000UL / 1024);
}
