/* What hangs on the board beside motors: lock, light, drop sensor, climate sensor,
 * and the host that may fall silent. */
#include "check.h"
#include "host.h"

#include "../core/beam.h"

#include <string.h>

static void locks(void)
{
	struct status s;

	new_board();
	CHECK(!status().lock_open);
	s = lock(2000);
	CHECK(s.lock_open);
	CHECK(fake.lock);
	fake_tick(1980);
	CHECK(status().lock_open);
	fake_tick(40);
	CHECK(!status().lock_open);
	CHECK(lock(LIM_MAX_LOCK_MS).lock_open);
	CHECK(!lock(0).lock_open);
	lock(500);
	fake_tick(400);
	lock(500);				/* begins anew */
	fake_tick(400);
	CHECK(fake.lock);
	EQ(lock(LIM_MAX_LOCK_MS + 1).reason, NAK_BAD_VALUE);
	fake_tick(110);
	CHECK(!fake.lock);			/* a refusal changes nothing */
	fake.door = true;
	CHECK(lock(100).lock_open);
	CHECK(status().door_open);
}

static void lights(void)
{
	fake_new();
	fake_boot(RESET_POWER);
	EQ(fake.light, LIM_DIM_PERCENT);
	KEEP(board_answers(300));
	EQ(status().light, LIM_DIM_PERCENT);
	EQ(light(100).light, 100);
	EQ(fake.light, 100);
	EQ(light(101).reason, NAK_BAD_VALUE);
	EQ(fake.light, 100);
	EQ(light(0).light, 0);
	EQ(fake.light, 0);
}

/* Without a valid frame for HeartbeatMS: dark and locked. */
static void silence(void)
{
	uint8_t frame[16], n;

	new_board();
	light(80);
	lock(LIM_MAX_LOCK_MS);
	fake_tick(LIM_HEARTBEAT_MS - 20);
	EQ(fake.light, 80);
	CHECK(fake.lock);
	fake_tick(30);
	EQ(fake.light, LIM_DIM_PERCENT);
	CHECK(!fake.lock);
	EQ(status().light, LIM_DIM_PERCENT);	/* a host that is back sets it again itself */

	light(80);
	fake_tick(4000);
	ask(0x55, NULL, 0);			/* a message of another year is a valid frame */
	fake_tick(4000);
	EQ(fake.light, 80);
	n = host_frame(frame, MSG_PING, 1, NULL, 0);
	frame[3] ^= 0x10;
	for (int i = 0; i < 40; i++) {		/* damaged ones are not */
		fake_send(frame, n);
		fake_tick(100);
	}
	EQ(fake.light, LIM_DIM_PERCENT);

	/* A turn in progress ends as it would have. */
	new_board();
	fake_slot(1)->pieces = 0;
	vend(1, 1);
	fake_tick(LIM_HEARTBEAT_MS + 8000);
	EQ(fake.on_count, 4);
	EQ(query(1).cause, FAULT_NO_DROP);
}

/* Emitter off must be dark. */
static void curtain(void)
{
	struct answer a;
	uint8_t two[64], n;
	static const uint8_t payload[MSG_VEND_LEN] = { 9, 0, 0, 0, 3 };

	new_board();
	EQ(status().curtain, CURTAIN_GOOD);
	CHECK(!status().sensor_dark);
	CHECK(fake.emitter);
	fake.blind = true;
	EQ(status().curtain, CURTAIN_GOOD);	/* tested with each VEND, and with CLEAR */
	EQ(vend(1, 1).reason, NAK_DROP_SENSOR);
	EQ(status().curtain, CURTAIN_BLIND);
	EQ(clear(FAULT_DROP_SENSOR).curtain, CURTAIN_BLIND);
	fake.blind = false;
	EQ(status().curtain, CURTAIN_BLIND);
	EQ(clear(FAULT_DROP_SENSOR).curtain, CURTAIN_GOOD);
	EQ(vend_all(1, 1).cause, 0);
	fake.blocked = true;
	fake_tick(5);
	CHECK(status().sensor_dark);
	EQ(vend(2, 1).reason, NAK_DROP_SENSOR);
	EQ(hello().highest, 1);
	fake.blocked = false;
	fake_tick(5);
	CHECK(!status().sensor_dark);
	fake_boot(RESET_WATCHDOG);
	fake.blind = true;
	CHECK(board_answers(300));
	EQ(status().curtain, CURTAIN_BLIND);
	fake.blind = false;

	/* The blind sensor is found although it was good a moment ago, and the test
	 * counts no piece. */
	new_board();
	for (uint32_t id = 1; id < 6; id++)
		EQ(vend_all(id, 1).drops, 1);
	EQ(status().drops, 5);
	EQ(status().spontaneous, 0);

	/* What comes while VEND waits for the test is answered after it, in order. */
	while (host_answer(&a))
		;
	n = host_frame(two, MSG_VEND, 1, payload, sizeof payload);
	n = (uint8_t)(n + host_frame(two + n, MSG_PING, 2, NULL, 0));
	fake_send(two, n);
	fake_tick(3);
	CHECK(!host_answer(&a));
	fake_tick(20);
	CHECK(host_answer(&a));
	EQ(a.kind, MSG_VEND_STATE);
	EQ(a.seq, 1);
	CHECK(host_answer(&a));
	EQ(a.kind, MSG_PONG);
	EQ(a.seq, 2);

	/* In a motion the sensor is in use: CLEAR does not switch its light off. */
	fake.blind = true;
	EQ(clear(FAULT_DROP_SENSOR).curtain, CURTAIN_GOOD);
	CHECK(fake.emitter);
	fake.blind = false;
	vend_over(9);
}

static void strays(void)
{
	new_board();
	fake_fall(10);
	fake_tick(50);
	EQ(status().spontaneous, 1);
	EQ(status().drops, 1);
	for (int i = 0; i < 5; i++) {
		fake_fall(10);
		fake_tick(100);
	}
	EQ(status().spontaneous, 6);
	EQ(clear(FAULT_SPONTANEOUS).spontaneous, 0);
	EQ(status().drops, 6);
	fake_fall(20);
	vend(1, 1);				/* while the journal takes the id */
	EQ(vend_over(1).drops, 1);
	EQ(status().spontaneous, 1);
	EQ(status().drops, 8);
	wait_ms(500);
	reboot();
	EQ(status().spontaneous, 0);
	EQ(status().drops, 8);

	/* A sensor that flickers for a night does not wear out EEPROM. */
	uint32_t writes = fake.ee_writes;
	for (int i = 0; i < 6000; i++) {
		fake_fall(10);
		fake_tick(50);
	}
	EQ(status().spontaneous, 6000);
	CHECK(fake.ee_writes - writes < 300);
	for (int i = 0; i < 60000; i++) {
		fake_fall(1);
		fake_tick(30);
	}
	EQ(status().spontaneous, 0xffff);
}

/* The beam: shorter than a piece is none, a gap inside a box is no second one. */
static void beam(void)
{
	static const struct {
		const char *samples;
		int pieces;
	} cases[] = {
		{ "..#..#..#..", 0 }, { "..##..", 1 }, { "..######..", 1 }, { "..###.###...", 1 },
		{ "..###.........###..", 1 }, { "..###..........###..", 2 }, { "####################", 1 },
		{ "##..........##..........##", 3 }, { "##..........#.#.#.", 1 },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct beam b = { 0 };
		int pieces = 0;

		check_in(cases[i].samples);
		for (const char *s = cases[i].samples; *s; s++)
			pieces += beam_step(&b, *s == '#');
		EQ(pieces, cases[i].pieces);
	}
	check_in(0);
}

static void climate(void)
{
	static const struct {
		const char *name;
		enum climate bad;
	} cases[] = {
		{ "absent", CLIMATE_ABSENT }, { "hangs", CLIMATE_HANGS }, { "bad temperature", CLIMATE_BAD_T },
		{ "bad humidity", CLIMATE_BAD_RH },
	};
	struct status s;

	new_board();
	s = status();
	CHECK(s.climate);
	ABOUT(s.centi_c, 2150, 1);
	ABOUT(s.centi_rh, 4500, 1);
	fake.centi_c = -1234;
	fake.centi_rh = 9876;
	wait_ms(11000);
	s = status();
	ABOUT(s.centi_c, -1234, 1);
	ABOUT(s.centi_rh, 9876, 1);
	fake.climate = CLIMATE_ALL_ONES;
	wait_ms(11000);
	s = status();
	EQ(s.centi_c, 13000);
	EQ(s.centi_rh, 10000);

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		check_in(cases[i].name);
		new_board();
		CHECK(status().climate);
		fake.climate = cases[i].bad;
		wait_ms(30000);
		s = status();
		CHECK(!s.climate);
		EQ(s.centi_c, 0);
		EQ(s.centi_rh, 0);
		EQ(fake.aborts > 0, cases[i].bad == CLIMATE_HANGS);
		CHECK(vend_all(1, 1).cause == 0);	/* nobody waits for it */
		fake.climate = CLIMATE_GOOD;
		fake.centi_c = 30;
		wait_ms(3000);
		s = status();
		CHECK(s.climate);
		ABOUT(s.centi_c, 30, 1);
	}
	check_in("absent from the beginning");
	fake_new();
	fake.climate = CLIMATE_ABSENT;
	fake_boot(RESET_POWER);
	KEEP(board_answers(300));
	wait_ms(5000);
	CHECK(!status().climate);
	check_in("one bad reading");
	new_board();
	wait_ms(9000);
	fake.climate = CLIMATE_BAD_T;
	wait_ms(1200);
	CHECK(status().climate);		/* the last good one stands for a while */
	fake.climate = CLIMATE_GOOD;
	check_in(0);
}

void test_cabinet(void)
{
	locks();
	lights();
	silence();
	curtain();
	strays();
	beam();
	climate();
}
