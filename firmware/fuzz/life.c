#include "life.h"

#include "../test/host.h"

#include <string.h>

enum {
	IDS = 24,		/* vend ids, so few that they meet again */
	SLOTS = 8,		/* slots in use, likewise */
	LIFE_MS = 120000,	/* one input is not longer than this */
	BOOT_MS = 2500,		/* a board whose pages are worn tries three of them */
};

static const uint8_t *in, *in_end;
static uint32_t base_id;	/* ids in use are above this */

static uint8_t next(void)
{
	return in < in_end ? *in++ : 0;
}

static uint8_t a_slot(void)
{
	return (uint8_t)(next() % SLOTS + 1);
}

/* Power is back: the board answers, whatever is in its EEPROM. */
static void boot(uint8_t cause)
{
	fake_boot(cause);
	if (!board_answers(BOOT_MS) && !fake.dead)
		fake_breach(__FILE__, __LINE__, "the board answers after a boot");
}

/* What is said of a vend agrees with whether its motor had power. */
static void check_vend(void)
{
	uint32_t id = base_id + 1 + next() % IDS;
	struct vend v = query(id);

	if (v.kind != MSG_VEND_STATE)
		return;		/* a cut in mid-answer */
	KEEP(v.id == id);
	KEEP(v.state >= STATE_NONE && v.state <= STATE_SKIPPED);
	if (v.state == STATE_NONE || v.state == STATE_SKIPPED)
		KEEP(!fake_powered(id));
	if (v.state != STATE_RUNNING)
		KEEP(v.phase == 0);
	else
		KEEP(v.phase >= PHASE_STORE && v.phase <= PHASE_END);
}

static void check_status(void)
{
	struct status s = status();

	if (s.kind != MSG_STATUS_IS)
		return;
	KEEP(s.light == fake.light);
	KEEP(s.motion || !s.slot);
	KEEP(s.motion || !fake_motor());
	KEEP(s.lock_open == fake.lock || fake.now - fake.lock_until < ANSWER_MS);	/* or while the answer left */
	KEEP(s.climate || (!s.centi_c && !s.centi_rh));
}

/* A frame of any kind and length, with bytes of the input in it. */
static void any_frame(void)
{
	uint8_t payload[PROTO_MAX_PAYLOAD], kind = next() % 16, n = next() % sizeof payload;
	struct answer a;

	for (uint8_t i = 0; i < n; i++)
		payload[i] = next();
	a = ask(kind, payload, n);
	KEEP(!a.kind || a.kind & 0x80);
}

static void noise(void)
{
	uint8_t bytes[32], n = next() % sizeof bytes;

	for (uint8_t i = 0; i < n; i++)
		bytes[i] = next();
	fake_send(bytes, n);
}

static void change_slot(void)
{
	struct spiral *s = fake_slot(a_slot());
	uint8_t what = next();

	s->jam = what & 1;
	s->absent = what & 2;
	s->shorted = what & 4;
	s->stuck_home = what & 8;
	s->runaway = what & 16;
	s->twice = what & 32;
	s->hang = what >> 6;
	s->turn_ms = (uint16_t)(200 + next() * 25);
	s->late_ms = (uint16_t)((next() % 32) * 60);
	s->bounce_ms = next() % 8;
}

static void reconfigure(void)
{
	uint8_t p[MSG_CONFIGURE_LEN], at = next();

	usual_config(p);
	p[MSG_CONFIGURE_COUPLED] = next();
	if (at & 1)
		set_u16(p, (uint8_t)(MSG_CONFIGURE_LEAVE_MS + at % 6 * 2), (uint16_t)(next() * 40));
	configure(p);
}

static void wear(void)
{
	uint16_t at = (uint16_t)(next() | next() << 8);
	uint8_t bits = next();

	if (at % 8 == 0)
		memset(fake.stuck, 0, sizeof fake.stuck);
	else
		fake.stuck[at % HAL_EE_SIZE] = bits;
}

static void press(uint8_t motion)
{
	uint8_t slot = a_slot(), number = next(), times = next() % 32;

	for (uint8_t i = 0; i <= times && !fake.dead; i++) {
		hold(slot, motion, number);
		fake_tick(100);
	}
}

static void event(void)
{
	uint8_t what = next();

	switch (what % 20) {
	case 0:
		noise();
		break;
	case 1:
		any_frame();
		break;
	case 2:
		fake_tick(next());
		break;
	case 3:
		fake_tick((uint32_t)next() * 32);
		break;
	case 4:
		fake.door = what >> 7;
		break;
	case 5:
		change_slot();
		break;
	case 6:
		fake_torn(next());
		break;
	case 7:
		fake.torn = next();
		fake.cut_in = next();
		break;
	case 8:
	case 9:
		vend(base_id + 1 + next() % IDS, a_slot());
		break;
	case 10:
		vend_all(base_id + 1 + next() % IDS, a_slot());
		break;
	case 11:
		press(MOTION_TEST);
		break;
	case 12:
		press(MOTION_HOME);
		break;
	case 13:
		fake.blocked = what >> 7;
		fake.blind = what >> 6 & 1;
		break;
	case 14:
		wear();
		break;
	case 15:
		fake.climate = (enum climate)(next() % (CLIMATE_ALL_ONES + 1));
		break;
	case 16:
		clear(next() % 20);
		break;
	case 17:
		reconfigure();
		break;
	case 18:
		if (fake.nfalls < FALLS / 2)
			fake_fall(next());
		break;
	default:
		lock((uint16_t)(next() * 40));
		break;
	}
}

void life_go(const uint8_t *data, size_t size)
{
	uint32_t from = fake.now;

	in = data;
	in_end = data + size;
	base_id = hello().highest;
	if (base_id > 0xffff0000)
		base_id = 0;	/* an image that has used up all ids */
	while (in < in_end && fake.now - from < LIFE_MS) {
		event();
		if (fake.restart || fake.dead)
			boot(fake.dead ? RESET_POWER : RESET_EXTERNAL);
		check_vend();
		check_status();
		if (fake.dead)
			boot(RESET_POWER);
	}
}
