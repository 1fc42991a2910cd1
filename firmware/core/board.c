#include "board.h"
#include "bytes.h"
#include "cabinet.h"
#include "climate.h"
#include "hal.h"
#include "keep.h"
#include "link.h"
#include "motion.h"
#include "proto.h"

#include <string.h>

enum {
	BYTES = 64,		/* taken from the line in one pass: a flood does not stop the motor's watch */
	RESTART_MS = 20,	/* until the answer to RESTART has left */
};

/* A press that is over: its number moves nothing. Motion 0 is none. */
static struct { uint8_t slot, motion, press; } last_hold;

/* A question that waits for a test of the drop sensor. Kind 0 is none. */
static struct { uint8_t kind, seq, slot; uint32_t id; } waiting;

static bool awake;		/* the boot is on record, and may be answered for */
static bool restarting;
static uint32_t restart_at;

void board_init(void)
{
	last_hold.motion = 0;
	waiting.kind = 0;
	awake = restarting = false;
	link_init();
	keep_init();
	cabinet_init();
	motion_init();
	climate_init();
}

static void nak(uint8_t seq, uint8_t reason)
{
	uint8_t b[MSG_NAK_LEN] = { reason, reason == NAK_LATCHED ? keep.latched : FAULT_NONE };

	link_send(MSG_NAK, seq, b, sizeof b);
}

static void pong(uint8_t seq)
{
	link_send(MSG_PONG, seq, NULL, 0);
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

static void hello_is(uint8_t seq)
{
	uint8_t b[MSG_HELLO_IS_LEN];

	b[MSG_HELLO_IS_PROTO] = PROTO_VERSION;
	put64(b + MSG_HELLO_IS_SERIAL, hal_serial());
	put32(b + MSG_HELLO_IS_BUILD, hal_build());
	put32(b + MSG_HELLO_IS_CONFIG_HASH, keep_config_hash());
	put32(b + MSG_HELLO_IS_HIGHEST, journal_highest());
	put32(b + MSG_HELLO_IS_BOOT, keep.boot);
	b[MSG_HELLO_IS_RESET_CAUSE] = hal_reset_cause();
	put32(b + MSG_HELLO_IS_UPTIME_MS, hal_now_ms());
	memcpy(b + MSG_HELLO_IS_FITTED, keep_fitted(), sizeof keep.not_home);
	link_send(MSG_HELLO_IS, seq, b, sizeof b);
}

static void status_is(uint8_t seq)
{
	const struct move *m = motion();
	uint8_t b[MSG_STATUS_IS_LEN] = { 0 };

	put32(b + MSG_STATUS_IS_BOOT, keep.boot);
	put32(b + MSG_STATUS_IS_UPTIME_MS, hal_now_ms());
	put32(b + MSG_STATUS_IS_TURNS, keep.turns);
	put32(b + MSG_STATUS_IS_DROPS, keep.drops + motion_unnoted());
	memcpy(b + MSG_STATUS_IS_NOT_HOME, keep.not_home, sizeof keep.not_home);
	put16(b + MSG_STATUS_IS_CURRENT_MA, hal_motor_ma());
	put16(b + MSG_STATUS_IS_SPONTANEOUS, cabinet_strays());
	put16(b + MSG_STATUS_IS_CENTI_C, (uint16_t)climate_centi_c());
	put16(b + MSG_STATUS_IS_CENTI_RH, climate_centi_rh());
	b[MSG_STATUS_IS_DOOR_OPEN] = hal_door_open();
	b[MSG_STATUS_IS_LOCK_OPEN] = hal_lock_open();
	b[MSG_STATUS_IS_LIGHT] = cabinet_light_is();
	b[MSG_STATUS_IS_SENSOR_DARK] = cabinet_dark();
	b[MSG_STATUS_IS_CURTAIN] = cabinet_curtain();
	b[MSG_STATUS_IS_CLIMATE] = climate_known();
	b[MSG_STATUS_IS_MOTION] = m->kind;
	if (m->kind) {
		set_put(b + MSG_STATUS_IS_NOT_HOME, m->slot, false);
		b[MSG_STATUS_IS_SLOT] = m->slot;
		b[MSG_STATUS_IS_PHASE] = m->phase;
		b[MSG_STATUS_IS_CAUSE] = m->kind == MOTION_VEND ? FAULT_NONE : m->cause;
	}
	b[MSG_STATUS_IS_LATCHED] = keep.latched;
	b[MSG_STATUS_IS_LATCHED_SLOT] = keep.latched_slot;
	b[MSG_STATUS_IS_JOURNAL_BAD] = keep_failed();
	link_send(MSG_STATUS_IS, seq, b, sizeof b);
}

/* What the board knows of one vend. */
struct fate {
	struct record r;
	uint8_t state, phase;
};

static struct fate fate_of(uint32_t id)
{
	const struct move *m = motion();
	struct fate f = { .r = { .id = id } };

	if (m->kind == MOTION_VEND && m->id == id) {
		f.state = STATE_RUNNING;
		f.phase = m->phase;
		f.r.slot = m->slot;
		f.r.cause = m->cause;
		f.r.drops = m->drops;
		f.r.run_ms = motion_run_ms();
		f.r.drop_ms = motion_drop_ms();
	} else if (motion_lost(id, &f.r)) {
		f.state = STATE_ENDED;
	} else {
		f.state = journal_find(id, &f.r);
		if (f.state == STATE_INTERRUPTED)
			f.r.cause = FAULT_INTERRUPTED;
	}
	return f;
}

static void vend_state(uint8_t seq, const struct fate *f, bool repeat)
{
	uint8_t b[MSG_VEND_STATE_LEN];

	put32(b + MSG_VEND_STATE_ID, f->r.id);
	b[MSG_VEND_STATE_SLOT] = f->r.slot;
	b[MSG_VEND_STATE_STATE] = f->state;
	b[MSG_VEND_STATE_REPEAT] = repeat;
	b[MSG_VEND_STATE_PHASE] = f->phase;
	b[MSG_VEND_STATE_CAUSE] = f->r.cause;
	b[MSG_VEND_STATE_DROPS] = f->r.drops;
	put16(b + MSG_VEND_STATE_RUN_MS, f->r.run_ms);
	put16(b + MSG_VEND_STATE_DROP_MS, f->r.drop_ms);
	link_send(MSG_VEND_STATE, seq, b, sizeof b);
}

/* What VEND and HOLD are refused for in the first place; 0 is nothing. */
static uint8_t refusal(uint8_t slot)
{
	if (motion()->kind)
		return NAK_BUSY;
	if (keep_failed())
		return NAK_JOURNAL;
	if (keep.latched)
		return NAK_LATCHED;
	return keep_turns(slot) ? 0 : NAK_BAD_SLOT;
}

static void test_sensor(uint8_t kind, uint8_t seq)
{
	waiting.kind = kind;
	waiting.seq = seq;
	cabinet_test();
}

static void on_vend(uint8_t seq, const uint8_t *p)
{
	uint32_t id = get32(p + MSG_VEND_ID);
	uint8_t slot = p[MSG_VEND_SLOT], no;
	struct fate f;

	if (!id) {
		nak(seq, NAK_BAD_VALUE);
		return;
	}
	f = fate_of(id);
	switch (f.state) {
	case STATE_RUNNING:
		vend_state(seq, &f, seq != motion()->seq);	/* the same frame again is answered as it was */
		return;
	case STATE_ENDED:
	case STATE_INTERRUPTED:
		vend_state(seq, &f, true);
		return;
	case STATE_NONE:
		break;
	default:
		nak(seq, NAK_STALE);
		return;
	}
	no = refusal(slot);
	if (!no && hal_door_open())
		no = NAK_DOOR_OPEN;
	if (no) {
		nak(seq, no);
		return;
	}
	waiting.id = id;
	waiting.slot = slot;
	test_sensor(MSG_VEND, seq);
}

static void vend(void)
{
	struct fate f;

	if (hal_door_open()) {
		nak(waiting.seq, NAK_DOOR_OPEN);
	} else if (cabinet_sensor_bad()) {
		nak(waiting.seq, NAK_DROP_SENSOR);
	} else if (set_has(keep.not_home, waiting.slot) || !motion_at_home(waiting.slot)) {
		nak(waiting.seq, NAK_NOT_HOME);
	} else {
		motion_vend(waiting.id, waiting.slot, waiting.seq);
		f = fate_of(waiting.id);
		vend_state(waiting.seq, &f, false);
	}
}

static void on_query(uint8_t seq, const uint8_t *p)
{
	uint32_t id = get32(p + MSG_QUERY_ID);
	struct fate f;

	if (!id) {
		nak(seq, NAK_BAD_VALUE);
		return;
	}
	f = fate_of(id);
	vend_state(seq, &f, true);
}

static void end_hold(void)
{
	const struct move *m = motion();

	last_hold.slot = m->slot;
	last_hold.motion = m->kind;
	last_hold.press = m->press;
	motion_let_go();
}

static void on_hold(uint8_t seq, const uint8_t *p)
{
	const struct move *m = motion();
	uint8_t slot = p[MSG_HOLD_SLOT], kind = p[MSG_HOLD_MOTION], press = p[MSG_HOLD_PRESS], no;

	if (kind != MOTION_TEST && kind != MOTION_HOME) {
		nak(seq, NAK_BAD_VALUE);
		return;
	}
	if (m->kind == kind && m->slot == slot && m->press == press) {
		motion_held();
		status_is(seq);
		return;
	}
	if (last_hold.motion == kind && last_hold.slot == slot && last_hold.press == press) {
		status_is(seq);		/* let go for too long: only a new press moves again */
		return;
	}
	if (m->kind && m->phase == PHASE_DONE)
		end_hold();
	no = refusal(slot);
	if (!no && kind == MOTION_TEST && (set_has(keep.not_home, slot) || !motion_at_home(slot)))
		no = NAK_NOT_HOME;
	if (no) {
		nak(seq, no);
		return;
	}
	motion_hold(kind, slot, press);
	status_is(seq);
}

static void on_configure(uint8_t seq, const uint8_t *p)
{
	if (!keep_valid(p)) {
		nak(seq, NAK_BAD_VALUE);
	} else if (motion()->kind) {
		nak(seq, NAK_BUSY);
	} else {
		keep_configure(p);
		hello_is(seq);
	}
}

static void on_lock(uint8_t seq, const uint8_t *p)
{
	uint16_t ms = get16(p + MSG_LOCK_OPEN_MS);

	if (ms > LIM_MAX_LOCK_MS) {
		nak(seq, NAK_BAD_VALUE);
		return;
	}
	hal_lock(ms);
	status_is(seq);
}

static void on_light(uint8_t seq, const uint8_t *p)
{
	if (p[MSG_LIGHT_PERCENT] > 100) {
		nak(seq, NAK_BAD_VALUE);
		return;
	}
	cabinet_light(p[MSG_LIGHT_PERCENT]);
	status_is(seq);
}

static void on_clear(uint8_t seq, const uint8_t *p)
{
	uint8_t fault = p[MSG_CLEAR_FAULT];

	if (fault && fault == keep.latched) {
		keep.latched = keep.latched_slot = 0;
		keep_save();
	} else if (fault == FAULT_JOURNAL) {
		keep_retry();
	} else if (fault == FAULT_SPONTANEOUS) {
		cabinet_strays_clear();
	} else if (fault == FAULT_DROP_SENSOR && !motion()->kind) {
		test_sensor(MSG_CLEAR, seq);
		return;
	}
	status_is(seq);
}

static void on_restart(uint8_t seq, const uint8_t *p)
{
	if (get32(p + MSG_RESTART_KEY) != RESTART_KEY) {
		nak(seq, NAK_BAD_VALUE);
	} else if (motion()->kind) {
		nak(seq, NAK_BUSY);
	} else {
		restarting = true;
		restart_at = hal_now_ms();
		pong(seq);
	}
}

static void on_ping(uint8_t seq, const uint8_t *p)
{
	(void)p;
	pong(seq);
}

static void on_hello(uint8_t seq, const uint8_t *p)
{
	(void)p;
	last_hold.motion = 0;	/* a new host counts its presses anew */
	hello_is(seq);
}

static void on_status(uint8_t seq, const uint8_t *p)
{
	(void)p;
	status_is(seq);
}

static const struct {
	uint8_t kind, len;
	void (*answer)(uint8_t seq, const uint8_t *payload);
} questions[] = {
	{ MSG_PING, MSG_PING_LEN, on_ping },
	{ MSG_HELLO, MSG_HELLO_LEN, on_hello },
	{ MSG_CONFIGURE, MSG_CONFIGURE_LEN, on_configure },
	{ MSG_VEND, MSG_VEND_LEN, on_vend },
	{ MSG_QUERY, MSG_QUERY_LEN, on_query },
	{ MSG_STATUS, MSG_STATUS_LEN, on_status },
	{ MSG_LOCK, MSG_LOCK_LEN, on_lock },
	{ MSG_LIGHT, MSG_LIGHT_LEN, on_light },
	{ MSG_HOLD, MSG_HOLD_LEN, on_hold },
	{ MSG_CLEAR, MSG_CLEAR_LEN, on_clear },
	{ MSG_RESTART, MSG_RESTART_LEN, on_restart },
};

void link_on_frame(uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n)
{
	cabinet_heard();
	for (uint8_t i = 0; i < sizeof questions / sizeof *questions; i++) {
		if (questions[i].kind == kind && questions[i].len == n) {
			questions[i].answer(seq, payload);
			return;
		}
	}
	nak(seq, NAK_BAD_MSG);
}

/* What waited for the test of the drop sensor. */
static void answer_waiting(void)
{
	uint8_t kind = waiting.kind;

	waiting.kind = 0;
	if (kind == MSG_VEND)
		vend();
	else if (kind == MSG_CLEAR)
		status_is(waiting.seq);
}

/* Further questions wait on the line while one waits for the sensor. Before the
 * boot is on record, and once a restart is promised, nobody is answered. */
static void listen(void)
{
	for (uint8_t i = 0; i < BYTES && !waiting.kind; i++) {
		int16_t byte = hal_rx();
		if (byte < 0)
			return;
		if (awake && !restarting)
			link_rx((uint8_t)byte);
	}
}

void board_poll(void)
{
	uint32_t now = hal_now_ms();
	const struct move *m = motion();

	keep_poll();
	cabinet_poll();
	motion_poll();
	climate_poll();
	if (m->kind && m->phase == PHASE_DONE && now - m->held_at >= LIM_HOLD_MS)
		end_hold();
	if (!awake)
		awake = keep_saved() && !cabinet_testing();
	if (restarting && now - restart_at >= RESTART_MS && keep_saved())
		hal_restart();
	if (!cabinet_testing())
		answer_waiting();
	listen();
}
