/* Motion by hand: TEST and HOME turn while a finger holds the button. */
#include "check.h"
#include "host.h"

#include "../core/journal.h"

#include <string.h>

static void one_turn_a_press(void)
{
	struct status s;

	new_board();
	s = hold(5, MOTION_TEST, 1);
	EQ(s.motion, MOTION_TEST);
	EQ(s.slot, 5);
	EQ(s.phase, PHASE_STORE);
	EQ(s.cause, 0);
	s = hold_for(5, MOTION_TEST, 1, 180);
	EQ(s.phase, PHASE_LEAVE);
	CHECK(!has_bit(s.not_home, 5));			/* the one in motion is not listed */
	s = hold_for(5, MOTION_TEST, 1, 500);
	EQ(s.phase, PHASE_RETURN);
	EQ(s.ma, RUN_MA);
	s = hold_for(5, MOTION_TEST, 1, 3000);
	EQ(s.phase, PHASE_DONE);			/* over, and still held */
	EQ(s.motion, MOTION_TEST);
	EQ(fake.on_count, 1);
	EQ(s.turns, 1);
	EQ(s.drops, 1);
	EQ(s.spontaneous, 0);
	hold_for(5, MOTION_TEST, 1, 2000);
	EQ(fake.on_count, 1);
	hold_for(5, MOTION_TEST, 2, 4000);		/* another press without letting go */
	EQ(fake.on_count, 2);
	EQ(status().turns, 2);
	fake_tick(LIM_HOLD_MS + 10);
	s = status();
	EQ(s.motion, MOTION_NONE);
	EQ(s.phase, 0);
	CHECK(!has_bit(s.not_home, 5));
	EQ(hold(5, MOTION_TEST, 2).motion, MOTION_NONE);	/* that press is over */
	EQ(hold(5, MOTION_TEST, 1).motion, MOTION_TEST);	/* another one */
	EQ(hello().highest, 0);
}

/* The finger lifts: the motor stops HoldMS after the last HOLD and not later, and
 * the slot waits for homing. */
static void let_go(void)
{
	uint32_t last;

	new_board();
	hold_for(5, MOTION_TEST, 1, 1000);
	last = fake.now;
	until_motor(false);
	ABOUT(fake.now - last, LIM_HOLD_MS, 8);
	CHECK(fake.now <= fake.held_until[5] + 2);
	CHECK(has_bit(status().not_home, 5) || status().motion);
	wait_ms(LIM_WATCH_MS + 500);
	EQ(status().motion, MOTION_NONE);
	CHECK(has_bit(status().not_home, 5));
	EQ(vend(1, 5).reason, NAK_NOT_HOME);
	EQ(hold(5, MOTION_TEST, 2).reason, NAK_NOT_HOME);
	EQ(vend(1, 6).state, STATE_RUNNING);		/* the others go on */
	vend_over(1);
	reboot();
	CHECK(has_bit(status().not_home, 5));

	/* That press is over, also for homing by the same number; HELLO forgets it. */
	hold_for(5, MOTION_HOME, 3, 3000);
	EQ(fake.on_count, 3);
	fake_tick(LIM_HOLD_MS + 10);
	CHECK(!has_bit(status().not_home, 5));
	EQ(status().turns, 2);				/* homing is no turn */
	EQ(vend_all(2, 5).state, STATE_ENDED);
	hold_for(5, MOTION_HOME, 3, 300);
	EQ(status().motion, MOTION_NONE);
	hello();
	EQ(hold(5, MOTION_HOME, 3).motion, MOTION_HOME);
}

/* A hold that comes after the motor has stopped for want of it moves nothing. */
static void held_too_late(void)
{
	struct status s;

	new_board();
	hold_for(5, MOTION_TEST, 1, 1000);
	fake_tick(LIM_HOLD_MS + 100);
	CHECK(!fake_motor());
	s = hold_for(5, MOTION_TEST, 1, 2000);
	EQ(s.motion, MOTION_TEST);
	EQ(s.phase, PHASE_DONE);
	EQ(fake.on_count, 1);
	fake_tick(LIM_HOLD_MS + 10);
	s = hold_for(5, MOTION_TEST, 1, 500);
	EQ(s.motion, MOTION_NONE);
	EQ(fake.on_count, 1);
}

static void home_at_home(void)
{
	struct status s;

	new_board();
	vend(1, 4);
	until_motor(true);
	reboot();					/* INTERRUPTED, and by luck still at home */
	CHECK(has_bit(status().not_home, 4));
	s = hold(4, MOTION_HOME, 1);
	EQ(s.phase, PHASE_DONE);
	EQ(s.motion, MOTION_HOME);
	EQ(fake.on_count, 1);
	fake_tick(LIM_HOLD_MS + 10);
	CHECK(!has_bit(status().not_home, 4));
	wait_ms(500);
	reboot();
	CHECK(!has_bit(status().not_home, 4));
	EQ(vend(2, 4).state, STATE_RUNNING);
}

/* Neither the door nor the sensor stops a held motion: staff stands there. */
static void door_and_sensor(void)
{
	struct status s;

	new_board();
	fake.door = true;
	fake.blocked = true;
	s = hold_for(5, MOTION_TEST, 1, 5000);
	EQ(s.cause, 0);
	EQ(fake.on_count, 1);
	CHECK(fake_slot(5)->pos < TURN_HOME);
	fake_slot(6)->pos = 300000;
	hold_for(6, MOTION_HOME, 2, 3500);
	CHECK(fake_slot(6)->pos < TURN_HOME);
}

static void faults(void)
{
	static const struct {
		const char *name;
		bool jam, absent, shorted, stuck_home, runaway;
		uint8_t cause;
	} cases[] = {
		{ "jam", true, false, false, false, false, FAULT_JAM },
		{ "no motor", false, true, false, false, false, FAULT_NO_MOTOR },
		{ "short", false, false, true, false, false, FAULT_SHORT },
		{ "stuck home", false, false, false, true, false, FAULT_STUCK_HOME },
		{ "runaway", false, false, false, false, true, FAULT_RUNAWAY },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct spiral *s = fake_slot(8);
		struct status st;

		check_in(cases[i].name);
		new_board();
		s->jam = cases[i].jam;
		s->absent = cases[i].absent;
		s->shorted = cases[i].shorted;
		s->stuck_home = cases[i].stuck_home;
		s->runaway = cases[i].runaway;
		st = hold_for(8, MOTION_TEST, 1, 8000);
		EQ(st.phase, PHASE_DONE);
		EQ(st.cause, cases[i].cause);
		EQ(st.latched, cases[i].runaway ? FAULT_RUNAWAY : 0);
		EQ(st.latched_slot, cases[i].runaway ? 8 : 0);
		fake_tick(LIM_HOLD_MS + 10);
		EQ(status().cause, 0);
		EQ(has_bit(status().not_home, 8), cases[i].jam || cases[i].runaway);
		wait_ms(500);
		reboot();
		EQ(status().latched, cases[i].runaway ? FAULT_RUNAWAY : 0);
		EQ(has_bit(status().not_home, 8), cases[i].jam || cases[i].runaway);
		EQ(status().turns, 1);
	}
	check_in(0);
}

static void busy(void)
{
	new_board();
	hold_for(5, MOTION_TEST, 1, 500);
	EQ(hold(6, MOTION_TEST, 2).reason, NAK_BUSY);
	EQ(hold(5, MOTION_HOME, 1).reason, NAK_BUSY);
	EQ(hold(5, MOTION_TEST, 2).reason, NAK_BUSY);
	EQ(vend(1, 6).reason, NAK_BUSY);
	hold_for(5, MOTION_TEST, 1, 3500);
	EQ(status().phase, PHASE_DONE);
	EQ(vend(1, 6).reason, NAK_BUSY);			/* the button is still held */
	EQ(hold(6, MOTION_TEST, 2).motion, MOTION_TEST);	/* another button: the first is over */
	EQ(status().slot, 6);
	EQ(hold(5, MOTION_TEST, 1).slot, 6);			/* that press is over, and moves nothing */
}

/* The beginning is noted before the motor has power, here with a new configuration
 * and a page in the way, and power goes as soon as the motor turns. */
static void noted_first(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];

	for (int queue = 0; queue < 2; queue++) {
		new_board();
		if (queue) {
			usual_config(p);
			p[6] = 0x05;
			configure(p);
		}
		hold(5, MOTION_TEST, 1);
		for (int i = 0; i < 100 && !fake_motor(); i++) {
			fake_tick(9);
			if (i % 8 == 7)
				hold(5, MOTION_TEST, 1);
		}
		CHECK(fake_motor());
		reboot();
		CHECK(has_bit(status().not_home, 5));
		EQ(status().turns, 1);
	}
}

/* The finger lifts before the motor has started: it does not start. */
static void lifted_early(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];

	new_board();
	usual_config(p);
	for (uint8_t i = 0; i < 6; i++)
		p[i] = (uint8_t)(0x11 * i);
	for (uint8_t i = MSG_CONFIGURE_LEAVE_MS; i < MSG_CONFIGURE_LEN; i += 2)
		set_u16(p, i, 0x0505);
	set_u16(p, MSG_CONFIGURE_JAM_MA, 0x0707);
	set_u16(p, MSG_CONFIGURE_JAM_MS, 0x0302);
	p[0] = 0xff;
	EQ(vend_all(1, 1).state, STATE_ENDED);
	EQ(vend(2, 1).state, STATE_RUNNING);
	vend_over(2);
	set_u16(p, MSG_CONFIGURE_TURN_MS, 0x1234);
	EQ(configure(p).kind, MSG_HELLO_IS);
	hold(5, MOTION_TEST, 1);
	wait_ms(3000);
	CHECK(fake.on_count <= 3);
	EQ(status().motion, MOTION_NONE);
}

/* No page takes the mark: no motor turns, and the press says why. */
static void no_memory(void)
{
	for (uint8_t kind = MOTION_TEST; kind <= MOTION_HOME; kind++) {
		struct status s;

		new_board();
		fake_slot(5)->pos = kind == MOTION_HOME ? 500000 : 0;
		memset(fake.stuck + JOURNAL_END, 0x08, HAL_EE_SIZE - JOURNAL_END);
		s = hold_for(5, kind, 1, 1500);
		EQ(s.phase, PHASE_DONE);
		EQ(s.cause, FAULT_JOURNAL);
		CHECK(s.journal_bad);
		EQ(s.turns, 0);
		EQ(fake.on_count, 0);
		fake_tick(LIM_HOLD_MS + 10);
		EQ(has_bit(status().not_home, 5), kind == MOTION_HOME);
		EQ(hold(5, kind, 2).reason, NAK_JOURNAL);
	}
}

/* One of a pair stands at home already: only the other one is brought back. */
static void home_a_pair(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];

	new_board();
	usual_config(p);
	set_bit(p + MSG_CONFIGURE_COUPLED, 5);
	configure(p);
	fake_slot(6)->pos = 400000;
	EQ(hold(5, MOTION_TEST, 9).reason, NAK_NOT_HOME);
	hold_for(5, MOTION_HOME, 1, 300);
	EQ(fake.row, 0);
	EQ(fake.cols, 1 << 5);
	hold_for(5, MOTION_HOME, 1, 3000);
	CHECK(fake_slot(6)->pos < TURN_HOME);
	EQ(fake_slot(5)->pos, 20000);
	EQ(fake.on_count, 1);
	fake_tick(LIM_HOLD_MS + 10);
	hold_for(5, MOTION_TEST, 2, 500);
	EQ(fake.cols, 3 << 4);
	hold_for(5, MOTION_TEST, 2, 3000);
	CHECK(fake_slot(5)->pos < TURN_HOME && fake_slot(6)->pos < TURN_HOME);
	EQ(fake.on_count, 2);
}

/* It came home by itself while that was noted. */
static void home_meanwhile(void)
{
	new_board();
	fake_slot(5)->pos = 500000;
	hold(5, MOTION_HOME, 1);
	fake_slot(5)->pos = 0;
	hold_for(5, MOTION_HOME, 1, 2500);
	EQ(fake.on_count, 0);
	EQ(status().phase, PHASE_DONE);
	fake_tick(LIM_HOLD_MS + 10);
	CHECK(!has_bit(status().not_home, 5));
}

/* A test is watched as a vend is: what falls after its stop is no stray. */
static void watched(void)
{
	new_board();
	fake_slot(5)->late_ms = 1000;
	hold_for(5, MOTION_TEST, 1, 2600);
	EQ(status().phase, PHASE_WATCH);
	hold_for(5, MOTION_TEST, 1, 2000);
	EQ(status().spontaneous, 0);
	EQ(status().drops, 1);
	EQ(status().phase, PHASE_DONE);
	fake_fall(10);
	fake_tick(50);
	EQ(status().spontaneous, 1);
}

void test_hold(void)
{
	one_turn_a_press();
	let_go();
	held_too_late();
	home_at_home();
	door_and_sensor();
	faults();
	busy();
	noted_first();
	lifted_early();
	no_memory();
	home_a_pair();
	home_meanwhile();
	watched();
}
