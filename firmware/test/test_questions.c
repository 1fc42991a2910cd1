/* Every question: its good answer, what is refused and for which reason first. */
#include "check.h"
#include "host.h"

#include <string.h>

static void who(void)
{
	struct hello h;
	uint8_t other = 9;

	fake_new();
	fake_boot(RESET_BROWN_OUT);
	KEEP(board_answers(300));
	h = hello();
	ABOUT(h.uptime, fake.now - fake.booted, 8);
	EQ(h.kind, MSG_HELLO_IS);
	EQ(h.proto, PROTO_VERSION);
	EQ(h.serial, 0x1122334455667788);
	EQ(h.build, 0xfeedc0de);
	EQ(h.hash, 0);
	EQ(h.highest, 0);
	EQ(h.boot, 1);
	EQ(h.reset_cause, RESET_BROWN_OUT);
	for (uint8_t slot = 1; slot <= LIM_SLOTS; slot++)
		CHECK(!has_bit(h.fitted, slot));
	EQ(ask(MSG_HELLO, &other, 1).kind, MSG_HELLO_IS);	/* a host of another version finds out */
	EQ(vend(1, 1).reason, NAK_BAD_SLOT);			/* without a configuration no slot is fitted */
	EQ(hold(1, MOTION_TEST, 1).reason, NAK_BAD_SLOT);
}

/* Each kind with its own length has an answer of its kind, with any other BAD_MSG. */
static void kinds(void)
{
	static const struct {
		uint8_t kind, len, answer;
	} good[] = {
		{ MSG_PING, MSG_PING_LEN, MSG_PONG }, { MSG_HELLO, MSG_HELLO_LEN, MSG_HELLO_IS },
		{ MSG_CONFIGURE, MSG_CONFIGURE_LEN, MSG_NAK }, { MSG_VEND, MSG_VEND_LEN, MSG_NAK },
		{ MSG_QUERY, MSG_QUERY_LEN, MSG_NAK }, { MSG_STATUS, MSG_STATUS_LEN, MSG_STATUS_IS },
		{ MSG_LOCK, MSG_LOCK_LEN, MSG_STATUS_IS }, { MSG_LIGHT, MSG_LIGHT_LEN, MSG_STATUS_IS },
		{ MSG_HOLD, MSG_HOLD_LEN, MSG_NAK }, { MSG_CLEAR, MSG_CLEAR_LEN, MSG_STATUS_IS },
		{ MSG_RESTART, MSG_RESTART_LEN, MSG_NAK },
	};
	static const uint8_t zeros[PROTO_MAX_PAYLOAD];

	for (unsigned kind = 0; kind < 256; kind++) {
		for (uint8_t len = 0; len <= PROTO_MAX_PAYLOAD; len++) {
			uint8_t want = MSG_NAK, reason = NAK_BAD_MSG;
			struct answer a = ask((uint8_t)kind, zeros, len);

			for (unsigned i = 0; i < sizeof good / sizeof *good; i++)
				if (good[i].kind == kind && good[i].len == len) {
					want = good[i].answer;
					reason = NAK_BAD_VALUE;	/* nothing but zeros */
				}
			if (a.kind == want && (want != MSG_NAK || a.p[MSG_NAK_REASON] == reason))
				continue;
			EQ(a.kind, want);
			EQ(a.p[MSG_NAK_REASON], reason);
			EQ(kind << 8 | len, -1);
		}
	}
}

/* The board refuses what Configure.Valid refuses. */
static void bad_configurations(void)
{
	static const struct {
		const char *name;
		uint8_t at;
		uint16_t value;
		bool good;
	} limits[] = {
		{ "leave below", MSG_CONFIGURE_LEAVE_MS, 99, false }, { "leave least", MSG_CONFIGURE_LEAVE_MS, 100, true },
		{ "leave most", MSG_CONFIGURE_LEAVE_MS, 2000, true }, { "leave above", MSG_CONFIGURE_LEAVE_MS, 2001, false },
		{ "turn below", MSG_CONFIGURE_TURN_MS, 999, false }, { "turn least", MSG_CONFIGURE_TURN_MS, 1000, true },
		{ "turn most", MSG_CONFIGURE_TURN_MS, 7000, true }, { "turn above", MSG_CONFIGURE_TURN_MS, 7001, false },
		{ "jam time below", MSG_CONFIGURE_JAM_MS, 9, false }, { "jam time least", MSG_CONFIGURE_JAM_MS, 10, true },
		{ "jam time most", MSG_CONFIGURE_JAM_MS, 1000, true }, { "jam time above", MSG_CONFIGURE_JAM_MS, 1001, false },
		{ "jam as open", MSG_CONFIGURE_JAM_MA, 50, false }, { "jam over open", MSG_CONFIGURE_JAM_MA, 51, true },
		{ "slow of any length", MSG_CONFIGURE_SLOW_MS, 0xffff, true },
		{ "fitted 61", MSG_CONFIGURE_FITTED + 6, 0x1fff, false }, { "coupled 64", MSG_CONFIGURE_COUPLED + 6, 0x8000, false },
		{ "coupled 10", MSG_CONFIGURE_COUPLED + 1, 0x0002, false }, { "coupled 9", MSG_CONFIGURE_COUPLED + 1, 0x0001, true },
		{ "coupled 60", MSG_CONFIGURE_COUPLED + 6, 0x0800, false }, { "coupled 1 and 2", MSG_CONFIGURE_COUPLED, 3, false },
		{ "coupled 1 and 3", MSG_CONFIGURE_COUPLED, 5, true },
	};
	uint8_t p[MSG_CONFIGURE_LEN];

	for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++) {
		struct answer a;

		usual_config(p);
		set_u16(p, limits[i].at, limits[i].value);
		check_in(limits[i].name);
		a = ask(MSG_CONFIGURE, p, sizeof p);
		EQ(a.kind, limits[i].good ? MSG_HELLO_IS : MSG_NAK);
		if (!limits[i].good)
			EQ(a.p[MSG_NAK_REASON], NAK_BAD_VALUE);
	}
	check_in("a pair needs both");
	for (uint8_t slot = 21; slot <= 22; slot++) {
		usual_config(p);
		p[(slot - 1) / 8] = (uint8_t)(p[(slot - 1) / 8] & ~(1u << (slot - 1) % 8));
		set_bit(p + MSG_CONFIGURE_COUPLED, 21);
		EQ(ask(MSG_CONFIGURE, p, sizeof p).kind, MSG_NAK);
	}
	check_in(0);
}

static void values(void)
{
	uint8_t key[MSG_RESTART_LEN] = { 'b', 'o', 'o', 'u' };

	EQ(vend(0, 1).reason, NAK_BAD_VALUE);
	EQ(query(0).reason, NAK_BAD_VALUE);
	EQ(lock(LIM_MAX_LOCK_MS + 1).reason, NAK_BAD_VALUE);
	EQ(light(101).reason, NAK_BAD_VALUE);
	EQ(hold(1, MOTION_NONE, 1).reason, NAK_BAD_VALUE);
	EQ(hold(1, MOTION_VEND, 1).reason, NAK_BAD_VALUE);
	EQ(hold(1, MOTION_HOME + 1, 1).reason, NAK_BAD_VALUE);
	EQ(ask(MSG_RESTART, key, sizeof key).p[MSG_NAK_REASON], NAK_BAD_VALUE);
	EQ(vend(1, 0).reason, NAK_BAD_SLOT);
	EQ(vend(1, 61).reason, NAK_BAD_SLOT);
	EQ(vend(1, 255).reason, NAK_BAD_SLOT);
	EQ(hold(0, MOTION_HOME, 1).reason, NAK_BAD_SLOT);
	EQ(hold(61, MOTION_TEST, 1).reason, NAK_BAD_SLOT);
	EQ(fake.on_count, 0);
	EQ(hello().highest, 0);
}

/* Everything is wrong at once; one after another is put right, and the reason is
 * always the first in the order of the rules. */
static void order_of_refusals(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];
	struct vend v;

	new_board();
	EQ(vend_all(50, 7).state, STATE_ENDED);
	fake_slot(5)->runaway = true;
	EQ(vend_all(60, 5).cause, FAULT_RUNAWAY);		/* latched, and slot 5 is not home */
	fake_slot(5)->runaway = false;
	fake.door = fake.blocked = true;
	memset(fake.stuck + 16, 0x10, 3456);			/* nor does the journal take anything */
	memset(fake.stuck + 3536, 0x10, 512);

	EQ(vend(0, 99).reason, NAK_BAD_VALUE);
	EQ(vend(55, 99).reason, NAK_STALE);
	EQ(clear(FAULT_RUNAWAY).latched, 0);			/* its page is not taken */
	wait_ms(1000);
	CHECK(status().journal_bad);
	v = vend(70, 99);
	EQ(v.reason, NAK_JOURNAL);
	EQ(v.fault, 0);
	memset(fake.stuck, 0, sizeof fake.stuck);
	CHECK(!clear(FAULT_JOURNAL).journal_bad);
	EQ(vend(70, 99).reason, NAK_BAD_SLOT);
	EQ(vend(70, 5).reason, NAK_DOOR_OPEN);
	fake.door = false;
	EQ(vend(70, 5).reason, NAK_DROP_SENSOR);
	fake.blocked = false;
	EQ(vend(70, 5).reason, NAK_NOT_HOME);
	EQ(status().motion, MOTION_NONE);

	/* LATCHED is between JOURNAL and BAD_SLOT, BUSY before both. */
	hold_for(5, MOTION_HOME, 1, 4000);
	wait_ms(1000);
	fake_slot(5)->runaway = true;
	EQ(vend_all(71, 5).cause, FAULT_RUNAWAY);
	wait_ms(61000);						/* pieces that fall by themselves are saved again */
	memset(fake.stuck + 3536, 0x10, 512);
	fake_fall(5);
	wait_ms(2000);
	CHECK(status().journal_bad);
	v = vend(72, 99);
	EQ(v.reason, NAK_JOURNAL);
	EQ(v.fault, 0);
	memset(fake.stuck, 0, sizeof fake.stuck);
	clear(FAULT_JOURNAL);
	v = vend(72, 99);
	EQ(v.reason, NAK_LATCHED);
	EQ(v.fault, FAULT_RUNAWAY);
	EQ(hold(99, MOTION_HOME, 2).reason, NAK_LATCHED);
	EQ(hold(99, MOTION_HOME, 2).fault, FAULT_RUNAWAY);
	fake_slot(5)->runaway = false;
	EQ(clear(FAULT_RUNAWAY).latched, 0);
	EQ(vend(72, 1).state, STATE_RUNNING);
	EQ(vend(72, 99).state, STATE_RUNNING);			/* known before it is looked at */
	EQ(vend(73, 99).reason, NAK_BUSY);
	EQ(vend(71, 1).state, STATE_ENDED);
	EQ(vend(65, 1).reason, NAK_STALE);
	EQ(hold(1, MOTION_HOME, 3).reason, NAK_BUSY);
	usual_config(p);
	EQ(ask(MSG_CONFIGURE, p, sizeof p).p[MSG_NAK_REASON], NAK_BUSY);
	p[0] ^= 1;
	set_u16(p, MSG_CONFIGURE_JAM_MS, 0);
	EQ(ask(MSG_CONFIGURE, p, sizeof p).p[MSG_NAK_REASON], NAK_BAD_VALUE);
	EQ(vend_over(72).cause, 0);

	/* The right half of a pair, and a slot without a motor. */
	usual_config(p);
	set_bit(p + MSG_CONFIGURE_COUPLED, 31);
	p[7] = 0;
	EQ(configure(p).kind, MSG_HELLO_IS);
	EQ(vend(80, 32).reason, NAK_BAD_SLOT);
	EQ(vend(80, 57).reason, NAK_BAD_SLOT);
	EQ(hold(32, MOTION_HOME, 9).reason, NAK_BAD_SLOT);
	EQ(hold(57, MOTION_TEST, 9).reason, NAK_BAD_SLOT);
}

static void restart(void)
{
	static const uint8_t key[MSG_RESTART_LEN] = { 'b', 'o', 'o', 't' };
	struct answer a;

	new_board();
	vend(1, 1);
	a = ask(MSG_RESTART, key, sizeof key);
	EQ(a.p[MSG_NAK_REASON], NAK_BUSY);
	vend_over(1);
	a = ask(MSG_RESTART, key, sizeof key);
	EQ(a.kind, MSG_PONG);
	CHECK(!fake.restart);		/* the answer leaves first */
	CHECK(!ping());			/* nothing new is begun */
	wait_ms(300);
	CHECK(fake.restart);
	fake_boot(RESET_WATCHDOG);
	CHECK(board_answers(300));
	EQ(hello().reset_cause, RESET_WATCHDOG);
	EQ(hello().boot, 2);
}

void test_questions(void)
{
	who();
	new_board();
	kinds();
	new_board();
	bad_configurations();
	new_board();
	values();
	order_of_refusals();
	restart();
}
