/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef SPIRAL_H
#define SPIRAL_H

#include "sim.h"

/* One spiral with its motor and home switch. Places are cycles from home at the
 * spiral's present speed, so that nothing is ever rounded on the way. */
struct spiral {
	int slot;		/* as printed on the tray */
	struct faults want;	/* as set */
	struct faults now;	/* since the motor started */
	int pieces;
	unsigned starts, turns, fallen;
	bool on, lost_home, paired;
	bool inrush;
	bool overlong;		/* said already */
	uint64_t turn;		/* of one turn */
	uint64_t at, from;	/* when the motor started, and where */
	uint64_t seen;		/* up to here what lies on the way has happened */
	uint64_t stuck;		/* place of the jam, NEVER without */
	int on_edge;		/* pieces that wait for the stop to fall */
	bool was_closed, bounce_closed;
	uint64_t bounce_until, bounce_at;
};

/* An idle spiral at home. */
void spiral_init(struct spiral *s, int slot);
void spiral_start(struct spiral *s, uint64_t now);
void spiral_stop(struct spiral *s, uint64_t now);
void spiral_set_faults(struct spiral *s, const struct faults *f, uint64_t now);

/* spiral_follow lets everything happen that lies on the way up to now; spiral_next
 * is when the next of it is due. */
void spiral_follow(struct spiral *s, uint64_t now);
uint64_t spiral_next(const struct spiral *s);

double spiral_part(const struct spiral *s, uint64_t now);	/* of a turn from home, 0 to 1 */
bool spiral_closed(const struct spiral *s, uint64_t now);	/* the home switch */
unsigned spiral_current(const struct spiral *s, uint64_t now);	/* mA; only while on */

/* cabinet.c: a piece of slot leaves the edge of the tray at this time. */
void cabinet_let_go(int slot, uint64_t at);

#endif
