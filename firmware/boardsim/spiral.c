/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The physics is that of daemon/machine/sim/cabinet.go; the two must stay the same. */
#include "spiral.h"

/* One turn of a spiral, and places in it, in thousandths. */
#define TURN_CYCLES (2500ull * CYC_MS)
enum { PLACE_HOME = 0, PLACE_OPEN = 80, PLACE_JAM = 400, PLACE_EDGE = 800 };

/* Two pieces that fall together are so far apart. */
#define APART_CYCLES (40ull * CYC_MS)

/* Currents of one motor, mA. */
enum { MA_RUN = 300, MA_SLOW = 450, MA_INRUSH = 900, MA_JAM = 1500, MA_SHORT = 4500 };
#define INRUSH_CYCLES (60ull * CYC_MS)

/* A switch that bounces does so for 4 ms, and may change every 250 us. */
#define BOUNCE_CYCLES (4ull * CYC_MS)
#define BOUNCE_STEP   (250ull * CYC_US)

/* The longest that a motor may have power, whatever the firmware does:
 * LIM_MAX_TURN_MS of core/proto.h, and a few ticks. */
#define MOTOR_MAX (7005ull * CYC_MS)

static uint64_t spiral_place(const struct spiral *s, uint64_t now)
{
	uint64_t p;

	if (!s->on || s->now.nomotor || s->now.shorted)
		return s->from;
	p = s->from + (now - s->at);
	return s->stuck < p ? s->stuck : p;
}

/* spiral_after is the first place past p that lies so much of a turn behind a home. */
static uint64_t spiral_after(const struct spiral *s, uint64_t p, unsigned thousandths)
{
	uint64_t place = p / s->turn * s->turn + s->turn * thousandths / 1000;

	return place > p ? place : place + s->turn;
}

static bool spiral_in_home(const struct spiral *s, uint64_t now)
{
	if (s->now.stuckhome)
		return true;
	if (s->lost_home)
		return false;
	return spiral_place(s, now) % s->turn < s->turn * PLACE_OPEN / 1000;
}

/* spiral_push lets go of what lies at the edge of the tray. */
static void spiral_push(struct spiral *s, uint64_t when)
{
	int n = s->now.twice ? 2 : 1;

	if (s->now.hang > 0) {
		s->now.hang--;
		s->want.hang -= s->want.hang > 0;
		return;
	}
	n = n < s->pieces ? n : s->pieces;
	s->pieces -= n;
	if (s->now.late > 0) {
		s->on_edge += n;
		return;
	}
	for (int i = 0; i < n; i++)
		cabinet_let_go(s->slot, when + (unsigned)i * APART_CYCLES);
}

/* spiral_move lets everything happen that lies on the way up to now. */
static void spiral_move(struct spiral *s, uint64_t now)
{
	uint64_t to = spiral_place(s, now), p;

	for (p = spiral_after(s, s->seen, PLACE_HOME); p <= to; p += s->turn)
		s->turns++;
	for (p = spiral_after(s, s->seen, PLACE_EDGE); p <= to; p += s->turn)
		spiral_push(s, now - (to - p));
	s->seen = to;
	s->inrush = s->inrush && now - s->at < INRUSH_CYCLES;
	if (s->now.runaway && to >= s->turn * PLACE_OPEN / 1000)
		s->lost_home = true;
}

static void spiral_mend(struct spiral *s)
{
	s->now = s->want;
	s->lost_home = s->lost_home && s->want.runaway;
}

void spiral_start(struct spiral *s, uint64_t now)
{
	uint64_t was = s->turn;

	spiral_mend(s);
	s->turn = s->now.slow > 0 ? (uint64_t)(s->now.slow * TURN_CYCLES) : TURN_CYCLES;
	s->from = (uint64_t)((double)s->from * (double)s->turn / (double)was);
	s->seen = s->from;
	s->at = now;
	s->stuck = NEVER;
	if (s->now.jam)
		s->stuck = s->from == s->turn * PLACE_JAM / 1000 ? s->from : spiral_after(s, s->from, PLACE_JAM);
	s->on = true;
	s->inrush = true;
	s->overlong = false;
	s->starts++;
	log_event("\"ev\":\"motor\",\"slot\":%d,\"on\":true", s->slot);
}

void spiral_stop(struct spiral *s, uint64_t now)
{
	spiral_move(s, now);
	s->from = s->seen = spiral_place(s, now) % s->turn;
	s->on = false;
	for (int i = 0; i < s->on_edge; i++)
		cabinet_let_go(s->slot, now + s->now.late + (unsigned)i * APART_CYCLES);
	s->on_edge = 0;
	log_event("\"ev\":\"motor\",\"slot\":%d,\"on\":false,\"us\":%llu", s->slot,
		(unsigned long long)(now / CYC_US - s->at / CYC_US));
}

unsigned spiral_current(const struct spiral *s, uint64_t now)
{
	if (s->now.nomotor)
		return 0;
	if (s->now.shorted)
		return MA_SHORT;
	if (spiral_place(s, now) == s->stuck)
		return MA_JAM;
	if (s->inrush)
		return MA_INRUSH;
	return s->now.slow > 1 ? MA_SLOW : MA_RUN;
}

uint64_t spiral_next(const struct spiral *s)
{
	uint64_t next = s->bounce_at, place;

	if (!s->on)
		return next;
	if (!s->overlong)
		next = earlier(next, s->at + MOTOR_MAX);
	if (s->inrush)
		next = earlier(next, s->at + INRUSH_CYCLES);
	if (s->now.nomotor || s->now.shorted || s->seen == s->stuck)
		return next;
	place = earlier(spiral_after(s, s->seen, PLACE_HOME), spiral_after(s, s->seen, PLACE_OPEN));
	place = earlier(place, spiral_after(s, s->seen, PLACE_EDGE));
	return earlier(next, s->at + (earlier(place, s->stuck) - s->from));
}

/* spiral_bounce follows the switch, which bounces at each edge if it is a bad one. */
static void spiral_bounce(struct spiral *s, uint64_t now)
{
	bool closed = spiral_in_home(s, now);

	if (closed != s->was_closed && s->now.bounce) {
		s->bounce_until = now + BOUNCE_CYCLES;
		s->bounce_at = now + BOUNCE_STEP;
		s->bounce_closed = closed;
	}
	s->was_closed = closed;
	if (now < s->bounce_at)
		return;
	s->bounce_closed = chip_random() & 1;
	s->bounce_at = now < s->bounce_until ? now + BOUNCE_STEP : NEVER;
}

bool spiral_closed(const struct spiral *s, uint64_t now)
{
	return s->bounce_at != NEVER ? s->bounce_closed : spiral_in_home(s, now);
}

void spiral_follow(struct spiral *s, uint64_t now)
{
	spiral_move(s, now);
	spiral_bounce(s, now);
	if (!s->on || s->overlong || now < s->at + MOTOR_MAX)
		return;
	s->overlong = true;
	log_event("\"ev\":\"FAULT\",\"why\":\"the motor of slot %d has power for more than 7 s\"", s->slot);
}

void spiral_set_faults(struct spiral *s, const struct faults *f, uint64_t now)
{
	s->want = *f;
	if (s->on)
		return;
	spiral_mend(s);
	s->was_closed = spiral_in_home(s, now);	/* a switch that breaks by itself does not bounce */
}

double spiral_part(const struct spiral *s, uint64_t now)
{
	return (double)(spiral_place(s, now) % s->turn) / (double)s->turn;
}

void spiral_init(struct spiral *s, int slot)
{
	*s = (struct spiral){ .slot = slot, .turn = TURN_CYCLES, .stuck = NEVER, .bounce_at = NEVER, .was_closed = true };
}
