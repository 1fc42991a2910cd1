/* One vend: from the frame to the end of the watch, and whatever may happen to it. */
#include "check.h"
#include "host.h"

#include <string.h>

/* Times of a healthy vend: the usual turn starts 20000 millionths past home. */
enum { EDGE_MS = (TURN_EDGE - 20000) / (TURN / USUAL_TURN_MS), DROP_MS = EDGE_MS + FALL_MS };

static bool quiet(const struct status *s)
{
	return s->motion == MOTION_NONE && s->slot == 0 && s->phase == 0 && s->cause == 0;
}

static void healthy(void)
{
	struct vend v;
	struct status s;
	uint32_t from;

	new_board();
	v = vend_seq(7, 12, 200);
	EQ(v.kind, MSG_VEND_STATE);
	EQ(v.id, 7);
	EQ(v.slot, 12);
	EQ(v.state, STATE_RUNNING);
	EQ(v.phase, PHASE_STORE);
	CHECK(!v.repeat);
	CHECK(!vend_seq(7, 12, 200).repeat);	/* that frame again */
	CHECK(vend_seq(7, 12, 201).repeat);
	CHECK(query(7).repeat);
	CHECK(!fake_motor());
	for (from = fake.now; !fake_motor() && fake.now - from < 200;)
		fake_tick(1);
	ABOUT(fake.now - from, 16 * EE_BYTE_MS, 16);
	EQ(fake.row, 1);
	EQ(fake.cols, 1 << 1);
	EQ(query(7).phase, PHASE_LEAVE);
	s = status();
	EQ(s.motion, MOTION_VEND);
	EQ(s.slot, 12);
	EQ(s.phase, PHASE_LEAVE);
	CHECK(!has_bit(s.not_home, 12));	/* it is in motion */
	ABOUT(s.ma, INRUSH_MA, 0);
	wait_ms(500);
	v = query(7);
	EQ(v.phase, PHASE_RETURN);
	ABOUT(v.run_ms, 505, 20);
	EQ(status().ma, RUN_MA);
	wait_ms(1900);
	EQ(query(7).drops, 1);
	ABOUT(query(7).drop_ms, DROP_MS, 5);
	EQ(status().drops, 1);
	until_motor(false);
	EQ(query(7).phase, PHASE_WATCH);
	v = vend_over(7);
	EQ(v.state, STATE_ENDED);
	EQ(v.slot, 12);
	EQ(v.phase, 0);
	EQ(v.cause, 0);
	EQ(v.drops, 1);
	ABOUT(v.run_ms, USUAL_TURN_MS - 50 + 6, 5);
	ABOUT(v.drop_ms, DROP_MS, 5);
	CHECK(v.repeat);
	s = status();
	CHECK(quiet(&s));
	EQ(s.turns, 1);
	EQ(s.drops, 1);
	EQ(s.spontaneous, 0);
	EQ(hello().highest, 7);
	EQ(fake.on_count, 1);

	/* Asked again it moves nothing, now or after a boot, whatever the slot. */
	v = vend_seq(7, 13, 200);
	EQ(v.state, STATE_ENDED);
	EQ(v.slot, 12);
	CHECK(v.repeat);
	reboot();
	EQ(vend(7, 12).state, STATE_ENDED);
	EQ(query(7).drops, 1);
	wait_ms(1000);
	EQ(fake.on_count, 1);
}

/* Each slot turns its own motor. */
static void every_slot(void)
{
	new_board();
	for (uint8_t slot = 1; slot <= LIM_SLOTS; slot++) {
		fake_slot(slot)->turn_ms = 500;
		EQ(vend_all(slot, slot).cause, 0);
		EQ(fake_slot(slot)->pieces, 9);
	}
	EQ(fake.fallen, LIM_SLOTS);
	EQ(status().turns, LIM_SLOTS);
	EQ(status().drops, LIM_SLOTS);
}

static void jam(struct spiral *s) { s->jam = true; }
static void absent(struct spiral *s) { s->absent = true; }
static void shorted(struct spiral *s) { s->shorted = true; }
static void stuck_home(struct spiral *s) { s->stuck_home = true; }
static void runs_away(struct spiral *s) { s->runaway = true; }
static void empty(struct spiral *s) { s->pieces = 0; }
static void double_drop(struct spiral *s) { s->twice = true; }
static void slow(struct spiral *s) { s->turn_ms = 4000; }
static void slow_double(struct spiral *s) { s->turn_ms = 4000; s->twice = true; }
static void late(struct spiral *s) { s->late_ms = 1200; }
static void too_late(struct spiral *s) { s->late_ms = 1600; }
static void bounces(struct spiral *s) { s->bounce_ms = 4; }
static void glitches(struct spiral *s) { s->glitch = 500000; }
static void hang_1(struct spiral *s) { s->hang = 1; }

/* One fault each: what the vend ends with, and how long the motor has run. */
static void causes(void)
{
	static const struct {
		const char *name;
		void (*spoil)(struct spiral *);
		uint8_t cause, drops;
		uint16_t run_ms;
		uint8_t starts;
		bool home;
	} cases[] = {
		{ "jam", jam, FAULT_JAM, 0, 950 + 120, 1, false },
		{ "no motor", absent, FAULT_NO_MOTOR, 0, 120, 1, true },
		{ "short", shorted, FAULT_SHORT, 0, 5, 1, true },
		{ "stuck home", stuck_home, FAULT_STUCK_HOME, 0, 900, 1, true },
		{ "runaway", runs_away, FAULT_RUNAWAY, 2, 5000, 1, false },
		{ "empty", empty, FAULT_NO_DROP, 0, 2456 + 2500 + 2500, 4, true },
		{ "double", double_drop, FAULT_DOUBLE_DROP, 2, 2456, 1, true },
		{ "slow", slow, FAULT_SLOW, 1, 3925, 1, true },
		{ "slow and double", slow_double, FAULT_DOUBLE_DROP, 2, 3925, 1, true },
		{ "late", late, 0, 1, 2456, 1, true },
		{ "too late", too_late, 0, 1, 2456 + 2500, 2, true },
		{ "bounces", bounces, 0, 1, 2460, 1, true },
		{ "glitches", glitches, 0, 1, 2456, 1, true },
		{ "one turn pushes nothing", hang_1, 0, 1, 2456 + 2500, 3, true },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct vend v;

		check_in(cases[i].name);
		new_board();
		cases[i].spoil(fake_slot(20));
		v = vend_all(3, 20);
		EQ(v.state, STATE_ENDED);
		EQ(v.cause, cases[i].cause);
		EQ(v.drops, cases[i].drops);
		ABOUT(v.run_ms, cases[i].run_ms, 25);
		EQ(fake.on_count, cases[i].starts);
		EQ(has_bit(status().not_home, 20), !cases[i].home);
		EQ(status().latched, cases[i].cause == FAULT_RUNAWAY ? FAULT_RUNAWAY : 0);
		EQ(status().spontaneous, 0);
		wait_ms(1000);
		reboot();
		v = query(3);
		EQ(v.state, STATE_ENDED);
		EQ(v.cause, cases[i].cause);
		EQ(v.drops, cases[i].drops);
		EQ(has_bit(status().not_home, 20), !cases[i].home);
		EQ(status().turns, 1);
		EQ(status().drops, cases[i].drops);
	}
	check_in(0);
}

/* What the currents are judged by: their thresholds, their times, and InrushMS. */
static void currents(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];

	new_board();
	usual_config(p);
	set_u16(p, MSG_CONFIGURE_JAM_MA, RUN_MA);	/* as much is not over it */
	set_u16(p, MSG_CONFIGURE_OPEN_MA, RUN_MA - 1);
	configure(p);
	EQ(vend_all(1, 1).cause, 0);
	set_u16(p, MSG_CONFIGURE_OPEN_MA, RUN_MA);
	set_u16(p, MSG_CONFIGURE_JAM_MA, RUN_MA + 1);
	configure(p);
	EQ(vend_all(2, 2).cause, 0);			/* nor is it under */
	set_u16(p, MSG_CONFIGURE_JAM_MA, 0xffff);
	set_u16(p, MSG_CONFIGURE_OPEN_MA, RUN_MA + 1);
	configure(p);
	EQ(vend_all(3, 3).cause, FAULT_NO_MOTOR);
	set_u16(p, MSG_CONFIGURE_OPEN_MA, 0);
	set_u16(p, MSG_CONFIGURE_JAM_MA, RUN_MA - 1);
	set_u16(p, MSG_CONFIGURE_JAM_MS, 500);
	configure(p);
	EQ(vend_all(4, 4).cause, FAULT_JAM);
	ABOUT(query(4).run_ms, LIM_INRUSH_MS + 500, 5);

	/* A short for less than ShortMS is none, a jam for less than JamMS neither. */
	usual_config(p);
	configure(p);
	vend(5, 5);
	until_motor(true);
	fake_tick(300);
	fake_slot(5)->shorted = true;
	fake_tick(LIM_SHORT_MS - 1);
	fake_slot(5)->shorted = false;
	fake_tick(50);
	CHECK(fake_motor());
	fake_slot(5)->jam = true;
	fake_slot(5)->pos = TURN_JAM;
	fake_tick(118);
	fake_slot(5)->jam = false;
	fake_tick(50);
	CHECK(fake_motor());
	EQ(vend_over(5).cause, 0);
	vend(6, 6);
	until_motor(true);
	fake_tick(1000);
	fake_slot(6)->shorted = true;
	fake_tick(LIM_SHORT_MS + 2);
	CHECK(!fake_motor());
	EQ(vend_over(6).cause, FAULT_SHORT);
}

/* The drop sensor is watched WatchMS after a stop, whatever it was for. */
static void watches(void)
{
	static const struct {
		const char *name;
		void (*spoil)(struct spiral *);
		uint8_t cause;
	} cases[] = { { "jam", jam, FAULT_JAM }, { "no motor", absent, FAULT_NO_MOTOR }, { "full turn", empty, 0 } };

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		for (uint32_t at = 1400; at <= 1600; at += 200) {
			struct vend v;
			uint32_t stopped;

			check_in(cases[i].name);
			new_board();
			cases[i].spoil(fake_slot(1));
			vend(1, 1);
			until_motor(true);
			until_motor(false);
			stopped = fake.now;
			fake_fall(at);
			wait_ms(at < LIM_WATCH_MS ? at + 10 : LIM_WATCH_MS - 10);
			EQ(query(1).phase, PHASE_WATCH);
			if (at < LIM_WATCH_MS) {
				while (query(1).phase == PHASE_WATCH)
					fake_tick(1);
				ABOUT(fake.now - stopped, at + LIM_SETTLE_MS, 10);
			}
			v = vend_over(1);
			EQ(v.cause, cases[i].cause);
			EQ(v.drops, at < LIM_WATCH_MS || !cases[i].cause);
			EQ(status().spontaneous, at > LIM_WATCH_MS && cases[i].cause);
			EQ(status().drops, 1);
		}
	}
	check_in(0);
}

/* A second piece is counted up to SettleMS after stop or first drop, whichever is
 * later, and is a stray one after that. */
static void settles(void)
{
	for (int late_by = 0; late_by < 2; late_by++) {
		new_board();
		vend(1, 1);
		until_motor(true);
		until_motor(false);
		fake_fall(late_by ? LIM_SETTLE_MS + 20 : LIM_SETTLE_MS - 20);
		EQ(vend_over(1).drops, late_by ? 1 : 2);
		wait_ms(500);
		EQ(status().spontaneous, late_by);
		EQ(query(1).cause, late_by ? 0 : FAULT_DOUBLE_DROP);
		EQ(status().drops, 2);
	}
}

/* Turn, half, pause, on to home, pause, half that runs through. */
static void half_turns(void)
{
	uint32_t on[8], off[8], n = 0, from;
	bool was = false;

	new_board();
	fake_slot(1)->pieces = 0;
	vend(1, 1);
	for (from = fake.now; fake.now - from < 14000 && n < 8;) {
		fake_tick(1);
		if (fake_motor() == was)
			continue;
		was = !was;
		if (was)
			on[n] = fake.now;
		else
			off[n++] = fake.now;
	}
	EQ(n, 4);
	if (n != 4)
		return;
	ABOUT(off[0] - on[0], 2456, 6);
	ABOUT(on[1] - off[0], LIM_WATCH_MS, 3);
	ABOUT(off[1] - on[1], (off[0] - on[0]) / 2, 3);
	ABOUT(on[2] - off[1], LIM_PAUSE_MS, 3);
	ABOUT(off[2] - on[2], USUAL_TURN_MS - (off[1] - on[1]), 12);
	ABOUT(on[3] - off[2], LIM_PAUSE_MS, 3);
	ABOUT(off[3] - on[3], USUAL_TURN_MS, 12);
	EQ(vend_over(1).cause, FAULT_NO_DROP);
	CHECK(!has_bit(status().not_home, 1));
}

/* Runs slot 1 without stock up to the n-th stop, and there lets a piece fall. */
static struct vend drop_after_stop(int n, uint32_t in_ms)
{
	new_board();
	fake_slot(1)->pieces = 0;
	vend(1, 1);
	for (int i = 0; i < n; i++) {
		until_motor(true);
		until_motor(false);
	}
	fake_fall(in_ms);
	return vend_over(1);
}

/* A drop ends the half-turns at the next home. */
static void drop_in_between(void)
{
	static const struct {
		const char *name;
		int stop;
		uint32_t in_ms;
		uint32_t starts;
	} cases[] = {
		{ "in the watch of the full turn", 1, 1000, 1 },
		{ "in the first half", 1, LIM_WATCH_MS + 600, 2 },	/* runs on to home at once */
		{ "in the pause away from home", 2, 100, 3 },		/* without the rest of the pause */
		{ "on the way home", 2, LIM_PAUSE_MS + 300, 3 },
		{ "in the pause at home", 3, 100, 3 },
		{ "in the third half", 3, LIM_PAUSE_MS + 300, 4 },
		{ "after it", 4, 1000, 4 },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct vend v;

		check_in(cases[i].name);
		v = drop_after_stop(cases[i].stop, cases[i].in_ms);
		EQ(v.cause, 0);
		EQ(v.drops, 1);
		EQ(fake.on_count, cases[i].starts);
		CHECK(!has_bit(status().not_home, 1));
		EQ(vend(2, 1).state, STATE_RUNNING);
	}
	check_in(0);
}

/* The limits hold for each start anew: here a fault that comes with a half-turn. */
static void fault_in_half(void)
{
	static const struct {
		const char *name;
		void (*spoil)(struct spiral *);
		uint8_t cause;
	} cases[] = {
		{ "jam", jam, FAULT_JAM }, { "no motor", absent, FAULT_NO_MOTOR }, { "short", shorted, FAULT_SHORT },
		{ "stuck home", stuck_home, FAULT_STUCK_HOME },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		check_in(cases[i].name);
		new_board();
		fake_slot(1)->pieces = 0;
		vend(1, 1);
		until_motor(true);
		until_motor(false);
		cases[i].spoil(fake_slot(1));
		EQ(vend_over(1).cause, cases[i].cause);
		EQ(fake.on_count, 2);
		EQ(has_bit(status().not_home, 1), cases[i].spoil == jam);
	}
	check_in("runaway");
	new_board();
	fake_slot(1)->pieces = 0;
	vend(1, 1);
	for (int i = 0; i < 2; i++) {
		until_motor(true);
		until_motor(false);
	}
	fake_slot(1)->runaway = true;
	EQ(vend_over(1).cause, FAULT_RUNAWAY);
	EQ(fake.on_count, 3);
	EQ(status().latched, FAULT_RUNAWAY);
	EQ(status().latched_slot, 1);
	check_in(0);
}

static void door(void)
{
	struct vend v;

	new_board();
	vend(1, 1);
	until_motor(true);
	fake_tick(700);
	fake.door = true;
	fake_tick(3);
	CHECK(!fake_motor());
	v = vend_over(1);
	EQ(v.cause, FAULT_DOOR_OPENED);
	CHECK(has_bit(status().not_home, 1));
	CHECK(status().door_open);
	EQ(vend(2, 2).reason, NAK_DOOR_OPEN);
	fake.door = false;
	EQ(vend(2, 1).reason, NAK_NOT_HOME);
	EQ(vend(2, 2).state, STATE_RUNNING);

	/* In the pause away from home: with and without a piece that fell there. */
	for (int fell = 0; fell < 2; fell++) {
		new_board();
		fake_slot(1)->pieces = 0;
		vend(1, 1);
		for (int i = 0; i < 2; i++) {
			until_motor(true);
			until_motor(false);
		}
		fake.door = true;
		if (fell)
			fake_fall(50);
		v = vend_over(1);
		EQ(v.cause, FAULT_DOOR_OPENED);
		EQ(v.drops, fell);
		EQ(fake.on_count, 2);
		CHECK(has_bit(status().not_home, 1));
	}

	/* While the journal takes the id: the motor stays still. */
	new_board();
	vend(1, 1);
	fake.door = true;
	EQ(vend_over(1).cause, FAULT_DOOR_OPENED);
	EQ(fake.on_count, 0);
	EQ(query(1).run_ms, 0);
	CHECK(!has_bit(status().not_home, 1));

	/* While VEND waits for the test of the drop sensor. */
	new_board();
	{
		static const uint8_t payload[MSG_VEND_LEN] = { 1, 0, 0, 0, 1 };
		uint8_t frame[32], n = host_frame(frame, MSG_VEND, 1, payload, sizeof payload);
		struct answer a;

		fake_send(frame, n);
		fake_tick(2);
		fake.door = true;
		fake_tick(20);
		CHECK(host_answer(&a));
		EQ(a.kind, MSG_NAK);
		EQ(a.p[MSG_NAK_REASON], NAK_DOOR_OPEN);
		fake.door = false;
		EQ(hello().highest, 0);
	}

	/* After the turn it stops nothing. */
	new_board();
	vend(1, 1);
	until_motor(true);
	until_motor(false);
	fake.door = true;
	EQ(vend_over(1).cause, 0);
}

static void cause_is_the_first(void)
{
	new_board();
	fake_slot(1)->jam = true;
	vend(1, 1);
	until_motor(true);
	until_motor(false);
	fake.door = true;
	fake_fall(50);
	fake_fall(100);
	EQ(vend_over(1).cause, FAULT_JAM);
	EQ(query(1).drops, 2);
}

static void latch(void)
{
	struct status s;

	new_board();
	fake_slot(9)->runaway = true;
	EQ(vend_all(4, 9).cause, FAULT_RUNAWAY);
	s = status();
	EQ(s.latched, FAULT_RUNAWAY);
	EQ(s.latched_slot, 9);
	wait_ms(500);
	reboot();
	s = status();
	EQ(s.latched, FAULT_RUNAWAY);
	EQ(s.latched_slot, 9);
	EQ(vend(5, 1).reason, NAK_LATCHED);
	EQ(vend(4, 9).state, STATE_ENDED);
	EQ(clear(FAULT_JAM).latched, FAULT_RUNAWAY);
	EQ(clear(0).latched, FAULT_RUNAWAY);
	s = clear(FAULT_RUNAWAY);
	EQ(s.latched, 0);
	EQ(s.latched_slot, 0);
	CHECK(has_bit(s.not_home, 9));		/* only homing clears that */
	EQ(clear(FAULT_RUNAWAY).latched, 0);	/* nothing is there: no error */
	EQ(clear(FAULT_NOT_HOME).kind, MSG_STATUS_IS);
	CHECK(has_bit(status().not_home, 9));
	EQ(vend(5, 9).reason, NAK_NOT_HOME);
	wait_ms(500);
	reboot();
	EQ(status().latched, 0);
	CHECK(has_bit(status().not_home, 9));
}

/* The latch is in the record of the vend too: power goes right after its end. */
static void latch_at_once(void)
{
	new_board();
	fake_slot(9)->runaway = true;
	vend_all(4, 9);
	reboot();
	EQ(status().latched, FAULT_RUNAWAY);
	EQ(status().latched_slot, 9);
}

static void interrupted(void)
{
	static const struct {
		const char *name;
		uint32_t ms;	/* of the motor */
		uint8_t drops;
	} cases[] = { { "before the drop", 1000, 0 }, { "after it", DROP_MS + 16 * EE_BYTE_MS + 20, 1 } };

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct vend v;
		struct status s;

		check_in(cases[i].name);
		new_board();
		vend(8, 30);
		until_motor(true);
		fake_tick(cases[i].ms);
		CHECK(fake_motor());
		reboot();
		v = vend(8, 30);
		EQ(v.state, STATE_INTERRUPTED);
		EQ(v.cause, FAULT_INTERRUPTED);
		EQ(v.drops, cases[i].drops);
		EQ(v.slot, 30);
		EQ(v.phase, 0);
		CHECK(v.repeat);
		ABOUT(v.drop_ms, cases[i].drops ? DROP_MS : 0, 5);
		s = status();
		EQ(s.turns, 1);
		EQ(s.drops, cases[i].drops);
		CHECK(has_bit(s.not_home, 30));
		EQ(hello().highest, 8);
		EQ(vend(9, 30).reason, NAK_NOT_HOME);
		EQ(fake.on_count, 1);

		/* Once more without anything in between: it stays so. */
		reboot();
		EQ(query(8).state, STATE_INTERRUPTED);
		CHECK(has_bit(status().not_home, 30));
		EQ(status().turns, 1);
		EQ(status().drops, cases[i].drops);
	}
	check_in(0);
}

/* A spiral that stands away from home is refused, marked or not. */
static void away_from_home(void)
{
	new_board();
	fake_slot(2)->pos = 500000;
	EQ(vend(1, 2).reason, NAK_NOT_HOME);
	EQ(hello().highest, 0);
	fake_slot(2)->pos = 0;
	EQ(vend(1, 2).state, STATE_RUNNING);
}

static uint8_t pair_config(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];

	usual_config(p);
	set_bit(p + MSG_CONFIGURE_COUPLED, 41);
	EQ(configure(p).kind, MSG_HELLO_IS);
	fake_slot(42)->pieces = 0;
	return 41;
}

static void pairs(void)
{
	struct vend v;

	new_board();
	pair_config();
	fake_slot(42)->turn_ms = 2700;		/* the other stops at its own home */
	v = vend(1, 41);
	EQ(v.state, STATE_RUNNING);
	until_motor(true);
	EQ(fake.row, 4);
	EQ(fake.cols, 3);
	fake_tick(500);
	EQ(status().ma, RUN_MA + SLOW_MA);
	while (fake.cols == 3)
		fake_tick(1);
	EQ(fake.cols, 2);
	until_motor(false);
	v = vend_over(1);
	EQ(v.cause, 0);
	EQ(v.drops, 1);
	CHECK(fake_slot(41)->pos < TURN_HOME);
	CHECK(fake_slot(42)->pos < TURN_HOME);
	EQ(fake.on_count, 1);
	EQ(status().turns, 1);

	check_in("one of the pair is absent");
	for (uint8_t slot = 41; slot <= 42; slot++) {
		new_board();
		pair_config();
		fake_slot(slot)->absent = true;
		EQ(vend_all(1, 41).cause, FAULT_STUCK_HOME);
		ABOUT(query(1).run_ms, 900, 5);
		CHECK(has_bit(status().not_home, 41));	/* the other one has left */
	}
	check_in("both absent");
	new_board();
	pair_config();
	fake_slot(41)->absent = fake_slot(42)->absent = true;
	EQ(vend_all(1, 41).cause, FAULT_NO_MOTOR);
	check_in("one jams");
	new_board();
	pair_config();
	fake_slot(42)->jam = true;
	EQ(vend_all(1, 41).cause, FAULT_JAM);
	check_in("the right one runs away");
	new_board();
	pair_config();
	fake_slot(42)->runaway = true;
	EQ(vend_all(1, 41).cause, FAULT_RUNAWAY);
	EQ(status().latched_slot, 41);
	check_in("the right one is not home");
	new_board();
	pair_config();
	fake_slot(42)->pos = 300000;
	EQ(vend(1, 41).reason, NAK_NOT_HOME);
	check_in("nothing falls");
	new_board();
	pair_config();
	fake_slot(41)->pieces = 0;
	fake_slot(42)->turn_ms = 2600;
	EQ(vend_all(1, 41).cause, FAULT_NO_DROP);
	EQ(fake.on_count, 4);
	CHECK(!has_bit(status().not_home, 41));
	check_in(0);
}

/* The journal does not take the id: the motor is still, the vend is over. */
static void no_journal(void)
{
	struct vend v;

	new_board();
	EQ(vend_all(10, 1).state, STATE_ENDED);
	wait_ms(500);
	memset(fake.stuck + 16, 0x40, 3456);
	EQ(vend(11, 1).state, STATE_RUNNING);
	v = vend_over(11);
	EQ(v.state, STATE_ENDED);
	EQ(v.cause, FAULT_JOURNAL);
	EQ(v.drops, 0);
	EQ(v.run_ms, 0);
	EQ(v.slot, 1);
	CHECK(v.repeat);
	EQ(fake.on_count, 1);
	EQ(hello().highest, 10);
	CHECK(status().journal_bad);
	CHECK(!has_bit(status().not_home, 1));
	EQ(status().turns, 1);
	EQ(vend(12, 1).reason, NAK_JOURNAL);
	EQ(hold(1, MOTION_TEST, 1).reason, NAK_JOURNAL);
	EQ(vend(11, 1).state, STATE_ENDED);
	EQ(vend(11, 1).cause, FAULT_JOURNAL);
	EQ(query(12).state, STATE_NONE);
	CHECK(!clear(FAULT_JOURNAL).journal_bad);	/* tried again, and still bad */
	EQ(vend_all(12, 1).cause, FAULT_JOURNAL);
	CHECK(status().journal_bad);
	reboot();
	EQ(hello().highest, 10);
	EQ(query(11).state, STATE_NONE);
	memset(fake.stuck, 0, sizeof fake.stuck);
	clear(FAULT_JOURNAL);
	EQ(vend_all(12, 1).cause, 0);
	EQ(query(11).state, STATE_SKIPPED);
	EQ(query(10).state, STATE_ENDED);
	EQ(hello().highest, 12);
}

/* It takes the beginning and not the end: known as over until the next boot, which
 * finds it INTERRUPTED, with what fell if the drop was taken. */
static void no_end(void)
{
	for (int dropped = 0; dropped < 2; dropped++) {
		struct vend v;

		new_board();
		vend(1, 1);
		until_motor(true);
		fake_tick(dropped ? DROP_MS + 100 : 500);
		memset(fake.stuck + 16, 0x40, 3456);
		v = vend_over(1);
		EQ(v.state, STATE_ENDED);
		EQ(v.drops, 1);
		EQ(v.cause, 0);
		CHECK(status().journal_bad);
		EQ(status().drops, 1);
		EQ(vend(1, 1).state, STATE_ENDED);
		EQ(vend(2, 1).reason, NAK_JOURNAL);
		reboot();
		v = query(1);
		EQ(v.state, STATE_INTERRUPTED);
		EQ(v.drops, dropped);
		CHECK(has_bit(status().not_home, 1));
		EQ(fake.on_count, 1);
	}
}

/* A shower of pieces is counted, and does not wash out the journal. */
static void shower(void)
{
	struct vend v;

	new_board();
	vend(1, 1);
	until_motor(true);
	for (uint32_t i = 0; i < 14; i++)
		fake_fall(200 + i * 120);
	v = vend_over(1);
	EQ(v.drops, 15);
	EQ(v.cause, FAULT_DOUBLE_DROP);
	EQ(status().drops, 15);
	EQ(status().spontaneous, 0);
	wait_ms(300);
	reboot();
	EQ(query(1).drops, 15);
	EQ(status().drops, 15);
}

/* The main loop hangs: the hal cuts the motor, and the vend is a runaway. */
static void hang(void)
{
	new_board();
	vend(1, 1);
	until_motor(true);
	fake_tick(300);
	fake.polls = 0;
	fake_slot(1)->stuck_home = true;
	fake_tick(5200);
	CHECK(!fake_motor());
	CHECK(fake.tripped);
	fake.polls = 1;
	EQ(vend_over(1).cause, FAULT_RUNAWAY);
}

/* The clock of the board wraps after 49 days; here while a motor turns. */
static void clock_wraps(void)
{
	new_board();
	fake.booted = fake.now + 1500;		/* hal_now_ms is near its end */
	CHECK(ping());
	EQ(vend_all(1, 1).cause, 0);
	CHECK(fake.now - fake.booted < 10000);
	ABOUT(query(1).run_ms, 2456, 6);
}

void test_vend(void)
{
	healthy();
	every_slot();
	causes();
	currents();
	watches();
	settles();
	half_turns();
	drop_in_between();
	fault_in_half();
	door();
	cause_is_the_first();
	latch();
	latch_at_once();
	interrupted();
	away_from_home();
	pairs();
	no_journal();
	no_end();
	shower();
	hang();
	clock_wraps();
}
