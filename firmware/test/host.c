#include "host.h"

#include <string.h>

static uint8_t seq;

static uint16_t u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t u32(const uint8_t *p)
{
	return u16(p) | (uint32_t)u16(p + 2) << 16;
}

static uint16_t crc(const uint8_t *p, uint8_t n)
{
	uint16_t c = 0xffff;

	while (n--) {
		c ^= *p++;
		for (uint8_t i = 0; i < 8; i++)
			c = (uint16_t)(c & 1 ? c >> 1 ^ 0x8408 : c >> 1);
	}
	return c;
}

uint8_t host_frame(uint8_t *out, uint8_t kind, uint8_t s, const uint8_t *payload, uint8_t n)
{
	uint8_t raw[256 + 4], len = 0, mark = 0;

	raw[0] = kind;
	raw[1] = s;
	if (n)
		memcpy(raw + 2, payload, n);
	uint16_t c = crc(raw, (uint8_t)(n + 2));
	raw[n + 2] = (uint8_t)c;
	raw[n + 3] = (uint8_t)(c >> 8);
	out[len++] = 1;
	for (uint8_t i = 0; i < n + 4; i++) {
		if (!raw[i]) {
			mark = len;
			out[len++] = 1;
			continue;
		}
		out[len++] = raw[i];
		out[mark]++;
	}
	out[len++] = 0;
	return len;
}

/* The bytes of one frame without its zero; false if they are none. */
static bool parse(const uint8_t *in, uint16_t n, struct answer *a)
{
	uint8_t raw[PROTO_MAX_FRAME], k = 0;
	uint16_t i = 0;

	KEEP(n < PROTO_MAX_FRAME);
	while (i < n) {
		uint8_t code = in[i++];

		KEEP(i + code - 1 <= n);
		while (--code)
			raw[k++] = in[i++];
		if (i < n)
			raw[k++] = 0;
	}
	KEEP(k >= 4 && crc(raw, (uint8_t)(k - 2)) == u16(raw + k - 2));
	a->kind = raw[0];
	a->seq = raw[1];
	a->n = (uint8_t)(k - 4);
	memcpy(a->p, raw + 2, a->n);
	return true;
}

/* What leaves a board is whole frames, whatever came in. */
bool host_answer(struct answer *a)
{
	uint8_t *end = memchr(fake.out, 0, fake.out_n);
	uint16_t n;

	memset(a, 0, sizeof *a);
	if (!end)
		return false;
	n = (uint16_t)(end - fake.out);
	parse(fake.out, n, a);
	fake.out_n = (uint16_t)(fake.out_n - n - 1);
	memmove(fake.out, end + 1, fake.out_n);
	return true;
}

struct answer ask_seq(uint8_t kind, uint8_t s, const uint8_t *payload, uint8_t n)
{
	uint8_t frame[256] = { 0 };	/* a host begins with a zero */
	struct answer a;

	while (host_answer(&a))
		;
	fake_send(frame, (uint16_t)(1 + host_frame(frame + 1, kind, s, payload, n)));
	for (int ms = 0; ms < ANSWER_MS && fake_tick(1); ms++) {
		if (host_answer(&a) && a.seq == s)
			return a;
	}
	return (struct answer){ .kind = 0 };
}

struct answer ask(uint8_t kind, const uint8_t *payload, uint8_t n)
{
	return ask_seq(kind, ++seq, payload, n);
}

bool ping(void)
{
	return ask(MSG_PING, NULL, 0).kind == MSG_PONG;
}

static struct hello read_hello(const struct answer *a)
{
	const uint8_t *p = a->p;
	struct hello h = { .kind = a->kind };

	if (a->kind != MSG_HELLO_IS)
		return h;
	KEEP(a->n == MSG_HELLO_IS_LEN);
	h.proto = p[MSG_HELLO_IS_PROTO];
	h.serial = u32(p + MSG_HELLO_IS_SERIAL) | (uint64_t)u32(p + MSG_HELLO_IS_SERIAL + 4) << 32;
	h.build = u32(p + MSG_HELLO_IS_BUILD);
	h.hash = u32(p + MSG_HELLO_IS_CONFIG_HASH);
	h.highest = u32(p + MSG_HELLO_IS_HIGHEST);
	h.boot = u32(p + MSG_HELLO_IS_BOOT);
	h.reset_cause = p[MSG_HELLO_IS_RESET_CAUSE];
	h.uptime = u32(p + MSG_HELLO_IS_UPTIME_MS);
	memcpy(h.fitted, p + MSG_HELLO_IS_FITTED, sizeof h.fitted);
	return h;
}

static bool flag(uint8_t b)
{
	KEEP(b <= 1);
	return b;
}

static struct vend read_vend(const struct answer *a)
{
	const uint8_t *p = a->p;
	struct vend v = { .kind = a->kind };

	if (a->kind == MSG_NAK) {
		v.reason = p[MSG_NAK_REASON];
		v.fault = p[MSG_NAK_FAULT];
	}
	if (a->kind != MSG_VEND_STATE)
		return v;
	KEEP(a->n == MSG_VEND_STATE_LEN);
	v.id = u32(p + MSG_VEND_STATE_ID);
	v.slot = p[MSG_VEND_STATE_SLOT];
	v.state = p[MSG_VEND_STATE_STATE];
	v.repeat = flag(p[MSG_VEND_STATE_REPEAT]);
	v.phase = p[MSG_VEND_STATE_PHASE];
	v.cause = p[MSG_VEND_STATE_CAUSE];
	v.drops = p[MSG_VEND_STATE_DROPS];
	v.run_ms = u16(p + MSG_VEND_STATE_RUN_MS);
	v.drop_ms = u16(p + MSG_VEND_STATE_DROP_MS);
	return v;
}

static struct status read_status(const struct answer *a)
{
	const uint8_t *p = a->p;
	struct status s = { .kind = a->kind };

	if (a->kind == MSG_NAK) {
		s.reason = p[MSG_NAK_REASON];
		s.fault = p[MSG_NAK_FAULT];
	}
	if (a->kind != MSG_STATUS_IS)
		return s;
	KEEP(a->n == MSG_STATUS_IS_LEN);
	s.boot = u32(p + MSG_STATUS_IS_BOOT);
	s.uptime = u32(p + MSG_STATUS_IS_UPTIME_MS);
	s.turns = u32(p + MSG_STATUS_IS_TURNS);
	s.drops = u32(p + MSG_STATUS_IS_DROPS);
	memcpy(s.not_home, p + MSG_STATUS_IS_NOT_HOME, sizeof s.not_home);
	s.ma = u16(p + MSG_STATUS_IS_CURRENT_MA);
	s.spontaneous = u16(p + MSG_STATUS_IS_SPONTANEOUS);
	s.centi_c = (int16_t)u16(p + MSG_STATUS_IS_CENTI_C);
	s.centi_rh = u16(p + MSG_STATUS_IS_CENTI_RH);
	s.door_open = flag(p[MSG_STATUS_IS_DOOR_OPEN]);
	s.lock_open = flag(p[MSG_STATUS_IS_LOCK_OPEN]);
	s.light = p[MSG_STATUS_IS_LIGHT];
	s.sensor_dark = flag(p[MSG_STATUS_IS_SENSOR_DARK]);
	s.curtain = p[MSG_STATUS_IS_CURTAIN];
	s.climate = flag(p[MSG_STATUS_IS_CLIMATE]);
	s.motion = p[MSG_STATUS_IS_MOTION];
	s.slot = p[MSG_STATUS_IS_SLOT];
	s.phase = p[MSG_STATUS_IS_PHASE];
	s.cause = p[MSG_STATUS_IS_CAUSE];
	s.latched = p[MSG_STATUS_IS_LATCHED];
	s.latched_slot = p[MSG_STATUS_IS_LATCHED_SLOT];
	s.journal_bad = flag(p[MSG_STATUS_IS_JOURNAL_BAD]);
	return s;
}

struct hello hello(void)
{
	uint8_t proto = PROTO_VERSION;
	struct answer a = ask(MSG_HELLO, &proto, 1);

	return read_hello(&a);
}

struct hello configure(const uint8_t *payload)
{
	struct answer a = ask(MSG_CONFIGURE, payload, MSG_CONFIGURE_LEN);

	return read_hello(&a);
}

static void put_id(uint8_t *p, uint32_t id)
{
	set_u16(p, 0, (uint16_t)id);
	set_u16(p, 2, (uint16_t)(id >> 16));
}

struct vend vend_seq(uint32_t id, uint8_t slot, uint8_t s)
{
	uint8_t p[MSG_VEND_LEN];
	struct answer a;

	put_id(p + MSG_VEND_ID, id);
	p[MSG_VEND_SLOT] = slot;
	a = ask_seq(MSG_VEND, s, p, sizeof p);
	return read_vend(&a);
}

struct vend vend(uint32_t id, uint8_t slot)
{
	return vend_seq(id, slot, ++seq);
}

struct vend query(uint32_t id)
{
	uint8_t p[MSG_QUERY_LEN];
	struct answer a;

	put_id(p, id);
	a = ask(MSG_QUERY, p, sizeof p);
	return read_vend(&a);
}

static struct status ask_status(uint8_t kind, const uint8_t *payload, uint8_t n)
{
	struct answer a = ask(kind, payload, n);

	return read_status(&a);
}

struct status status(void)
{
	return ask_status(MSG_STATUS, NULL, 0);
}

struct status lock(uint16_t ms)
{
	uint8_t p[MSG_LOCK_LEN];

	set_u16(p, 0, ms);
	return ask_status(MSG_LOCK, p, sizeof p);
}

struct status light(uint8_t percent)
{
	return ask_status(MSG_LIGHT, &percent, 1);
}

struct status hold(uint8_t slot, uint8_t motion, uint8_t press)
{
	uint8_t p[MSG_HOLD_LEN] = { slot, motion, press };

	return ask_status(MSG_HOLD, p, sizeof p);
}

struct status clear(uint8_t fault)
{
	return ask_status(MSG_CLEAR, &fault, 1);
}

void set_u16(uint8_t *payload, uint8_t at, uint16_t value)
{
	payload[at] = (uint8_t)value;
	payload[at + 1] = (uint8_t)(value >> 8);
}

void set_bit(uint8_t *set, uint8_t slot)
{
	set[(slot - 1) / 8] = (uint8_t)(set[(slot - 1) / 8] | 1u << (slot - 1) % 8);
}

bool has_bit(const uint8_t *set, uint8_t slot)
{
	return set[(slot - 1) / 8] >> (slot - 1) % 8 & 1;
}

void usual_config(uint8_t *payload)
{
	memset(payload, 0, MSG_CONFIGURE_LEN);
	for (uint8_t slot = 1; slot <= LIM_SLOTS; slot++)
		set_bit(payload + MSG_CONFIGURE_FITTED, slot);
	set_u16(payload, MSG_CONFIGURE_LEAVE_MS, 900);
	set_u16(payload, MSG_CONFIGURE_TURN_MS, 5000);
	set_u16(payload, MSG_CONFIGURE_SLOW_MS, 3500);
	set_u16(payload, MSG_CONFIGURE_JAM_MA, 900);
	set_u16(payload, MSG_CONFIGURE_JAM_MS, 120);
	set_u16(payload, MSG_CONFIGURE_OPEN_MA, 50);
}

bool board_answers(uint32_t within_ms)
{
	for (uint32_t from = fake.now; fake.now - from <= within_ms;)
		if (ping())
			return true;
	return false;
}

void new_board(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];

	fake_new();
	fake_boot(RESET_POWER);
	KEEP(board_answers(300));
	usual_config(p);
	KEEP(configure(p).kind == MSG_HELLO_IS);
	wait_ms(1000);
}

void reboot(void)
{
	fake_cut();
	fake_boot(RESET_POWER);
	KEEP(board_answers(300));
}

void wait_ms(uint32_t ms)
{
	uint32_t until = fake.now + ms;

	while (until - fake.now > 1000 && fake_tick(900))
		ping();
	if ((int32_t)(until - fake.now) > 0)
		fake_tick(until - fake.now);
}

void until_motor(bool on)
{
	for (int ms = 0; ms < 20000 && fake_motor() != on; ms++)
		fake_tick(1);
	KEEP(fake_motor() == on);
}

struct vend vend_over(uint32_t id)
{
	struct vend v = query(id);

	for (int i = 0; i < 400 && v.state == STATE_RUNNING; i++) {
		fake_tick(100);
		v = query(id);
	}
	return v;
}

struct vend vend_all(uint32_t id, uint8_t slot)
{
	struct vend v = vend(id, slot);

	return v.kind == MSG_VEND_STATE ? vend_over(id) : v;
}

struct status hold_for(uint8_t slot, uint8_t motion, uint8_t press, uint32_t ms)
{
	uint32_t from = fake.now;
	struct status s = hold(slot, motion, press);

	while (fake.now - from < ms && s.kind == MSG_STATUS_IS) {
		fake_tick(80);
		s = hold(slot, motion, press);
	}
	return s;
}
