/* The motor: one vend, test or homing at a time, from the journal's promise to
 * the end of the drop watch. The rules are those in the text of protocol/board.
 * It owns when a motor has power; it knows nothing of frames. */
#ifndef MOTION_H
#define MOTION_H

#include "journal.h"

#include <stdbool.h>
#include <stdint.h>

/* The motion in hand. Times are milliseconds of hal_now_ms, or lengths. */
struct move {
	uint8_t kind;			/* MOTION_; MOTION_NONE is none, and the rest says nothing */
	uint8_t phase;			/* PHASE_ */
	uint8_t slot, cause, drops;
	uint32_t id;			/* of a vend */
	uint8_t seq;			/* of the frame that began it */
	uint8_t press;			/* of a test or homing */
	uint32_t held_at;		/* last HOLD of it */

	/* The motors: one, or two that stand side by side. */
	uint8_t row;
	uint16_t cols;			/* all of them */
	uint16_t running;		/* with power */
	uint16_t left;			/* home switch has opened since this start */
	uint16_t home, raw;		/* home switches, debounced and not */
	uint32_t raw_at;		/* when raw changed */

	uint32_t began, on_at, stop_at, drop_at;	/* first start, this start, last stop, first drop */
	uint32_t run_ms;		/* of the starts before this one */
	uint32_t turn_ms;		/* of the first, full turn; 0 until then */
	uint32_t over_at, short_at, open_at;		/* current has been wrong since; now if it is right */
	bool half;			/* this start is for half a turn */
	uint8_t halves;			/* half-turns begun */

	uint8_t notes, noting, noted;	/* DROP records begun, the drops in the last, and in the last that stands */
};

void motion_init(void);
void motion_poll(void);
const struct move *motion(void);
bool motion_turning(void);		/* a motor has power */
uint16_t motion_run_ms(void);		/* of the vend in hand so far */
uint16_t motion_drop_ms(void);
bool motion_at_home(uint8_t slot);
uint8_t motion_unnoted(void);		/* pieces of the vend in hand that no record has yet */

void motion_vend(uint32_t id, uint8_t slot, uint8_t seq);
void motion_hold(uint8_t kind, uint8_t slot, uint8_t press);
void motion_held(void);			/* HOLD came again */
void motion_let_go(void);		/* ends a held motion that is PHASE_DONE */

/* A vend whose record the journal did not take; known until the next boot or vend. */
bool motion_lost(uint32_t id, struct record *r);

#endif
