/* Drop sensor: every millisecond a sample. */
#include <util/atomic.h>

#include "../core/beam.h"
#include "../core/hal.h"
#include "avr.h"
#include "pins.h"

static struct beam beam;
static volatile uint8_t drops;

void drop_init(void)
{
	EMITTER_PORT |= _BV(EMITTER_BIT);
	EMITTER_DDR |= _BV(EMITTER_BIT);
	BEAM_PORT |= _BV(BEAM_BIT);
}

void drop_tick(void)
{
	if (!(EMITTER_PORT & _BV(EMITTER_BIT)))
		return;
	if (beam_step(&beam, hal_beam_dark()))
		drops++;
}

uint8_t hal_drops(void)
{
	return drops;
}

bool hal_beam_dark(void)
{
	return BEAM_PIN & _BV(BEAM_BIT);
}

/* What the receiver saw without light is no part of a dark stretch. */
void hal_emitter(bool on)
{
	ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
		beam.dark = 0;
		if (on)
			EMITTER_PORT |= _BV(EMITTER_BIT);
		else
			EMITTER_PORT &= (uint8_t)~_BV(EMITTER_BIT);
	}
}
