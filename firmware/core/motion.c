#include "motion.h"
#include "bytes.h"
#include "cabinet.h"
#include "hal.h"
#include "keep.h"
#include "proto.h"

enum {
	STEADY_MS = 5,		/* a home switch that bounces is not believed */
	SPARE_MS = 50,		/* the tick's own limit is so much later than this program's */
	NOTES = 4,		/* DROP records of one vend: a shower of boxes does not wash out the journal */
	STRAY_SAVE_MS = 60000,	/* a flickering sensor does not wear out EEPROM */
};

static struct move m;
static struct record lost;	/* id 0 is none */
static uint32_t now, stray_at;

void motion_init(void)
{
	hal_motor_off();
	m = (struct move){ 0 };
	lost = (struct record){ 0 };
	stray_at = hal_now_ms() - STRAY_SAVE_MS;
}

const struct move *motion(void)
{
	return &m;
}

bool motion_turning(void)
{
	return m.kind && (m.phase == PHASE_LEAVE || m.phase == PHASE_RETURN || m.phase == PHASE_AGAIN);
}

static uint16_t clip(uint32_t ms)
{
	return (uint16_t)(ms > 0xffff ? 0xffff : ms);
}

uint16_t motion_run_ms(void)
{
	return clip(m.run_ms + (motion_turning() ? hal_now_ms() - m.on_at : 0));
}

uint16_t motion_drop_ms(void)
{
	if (!m.drops)
		return 0;
	return m.drop_at == m.began ? 1 : clip(m.drop_at - m.began);
}

uint8_t motion_unnoted(void)
{
	return m.kind == MOTION_VEND ? (uint8_t)(m.drops - m.noted) : 0;
}

static uint8_t row_of(uint8_t slot)
{
	return (uint8_t)((slot - 1) / LIM_COLUMNS);
}

static uint16_t cols_of(uint8_t slot)
{
	return (uint16_t)((keep_paired(slot) ? 3u : 1u) << (slot - 1) % LIM_COLUMNS);
}

bool motion_at_home(uint8_t slot)
{
	uint16_t cols = cols_of(slot);

	return (hal_home(row_of(slot)) & cols) == cols;
}

static struct record record_of(uint8_t kind)
{
	return (struct record){
		.kind = kind, .id = m.id, .slot = m.slot, .cause = m.cause, .drops = m.drops,
		.run_ms = clip(m.run_ms), .drop_ms = motion_drop_ms(),
	};
}

bool motion_lost(uint32_t id, struct record *r)
{
	if (!lost.id || lost.id != id)
		return false;
	*r = lost;
	return true;
}

static void begin(uint8_t kind, uint8_t slot)
{
	m = (struct move){ .kind = kind, .slot = slot, .phase = PHASE_STORE, .row = row_of(slot), .cols = cols_of(slot) };
}

void motion_vend(uint32_t id, uint8_t slot, uint8_t seq)
{
	struct record r;

	begin(MOTION_VEND, slot);
	m.id = id;
	m.seq = seq;
	lost.id = 0;
	r = record_of(REC_START);
	keep_record(&r);
}

void motion_hold(uint8_t kind, uint8_t slot, uint8_t press)
{
	bool there = kind == MOTION_HOME && motion_at_home(slot);

	begin(kind, slot);
	m.press = press;
	m.held_at = hal_now_ms();
	if (there)
		m.phase = PHASE_DONE;
	if (kind == MOTION_TEST)
		keep.turns++;
	set_put(keep.not_home, slot, !there);
	keep_save();
}

void motion_held(void)
{
	m.held_at = hal_now_ms();
}

void motion_let_go(void)
{
	m.kind = MOTION_NONE;
}

static void stop(uint8_t why)
{
	hal_motor_off();
	m.run_ms += now - m.on_at;
	m.stop_at = now;
	m.phase = PHASE_WATCH;
	if (!m.cause)
		m.cause = why;
	if (m.kind != MOTION_VEND && motion_at_home(m.slot)) {
		set_put(keep.not_home, m.slot, false);
		keep_save();
	}
}

/* The finger of a test or homing is off the button. */
static bool let_go(void)
{
	return m.kind != MOTION_VEND && now - m.held_at >= LIM_HOLD_MS;
}

/* Homeward, a motor of a pair that stands at home already does not run: it would
 * push out one more. */
static void start(uint8_t phase, bool homeward)
{
	uint16_t home = hal_home(m.row) & m.cols;

	m.home = m.raw = home;
	m.raw_at = m.on_at = m.over_at = m.short_at = m.open_at = now;
	m.running = homeward ? (uint16_t)(m.cols & ~home) : m.cols;
	m.left = m.running & (uint16_t)~home;
	m.phase = phase == PHASE_LEAVE && m.left == m.running ? PHASE_RETURN : phase;
	if (m.kind == MOTION_VEND && hal_door_open())
		stop(FAULT_DOOR_OPENED);
	else if (!m.running || let_go())
		stop(0);
	else
		hal_motor_on(m.row, m.running, (uint16_t)(config.turn_ms + SPARE_MS));
}

/* The journal has taken the beginning, or not; only then may the motor have power. */
static void stored(void)
{
	if (m.kind == MOTION_VEND && journal_failed()) {
		m.cause = FAULT_JOURNAL;
		lost = record_of(REC_END);
		m.kind = MOTION_NONE;
		return;
	}
	if (m.kind != MOTION_VEND && keep_failed()) {
		set_put(keep.not_home, m.slot, m.kind == MOTION_HOME);
		if (m.kind == MOTION_TEST)
			keep.turns--;
		m.cause = FAULT_JOURNAL;
		m.phase = PHASE_DONE;
		return;
	}
	m.began = now;
	start(PHASE_LEAVE, m.kind == MOTION_HOME);
}

static void sample_home(void)
{
	uint16_t raw = hal_home(m.row) & m.cols;

	if (raw != m.raw) {
		m.raw = raw;
		m.raw_at = now;
	} else if (now - m.raw_at >= STEADY_MS) {
		m.home = raw;
	}
	m.left |= m.running & (uint16_t)~m.home;
	if (m.phase == PHASE_LEAVE && m.left == m.running)
		m.phase = PHASE_RETURN;
}

/* What the current says is wrong, FAULT_NONE if nothing. */
static uint8_t judge_current(void)
{
	uint16_t ma = hal_motor_ma();

	if (ma <= LIM_SHORT_MA)
		m.short_at = now;
	if (now - m.short_at >= LIM_SHORT_MS)
		return FAULT_SHORT;
	if (now - m.on_at < LIM_INRUSH_MS || ma <= config.jam_ma)
		m.over_at = now;
	if (now - m.over_at >= config.jam_ms)
		return FAULT_JAM;
	if (now - m.on_at < LIM_INRUSH_MS || ma >= config.open_ma)
		m.open_at = now;
	if (now - m.open_at >= LIM_OPEN_MS)
		return FAULT_NO_MOTOR;
	return FAULT_NONE;
}

static void runaway(void)
{
	keep.latched = FAULT_RUNAWAY;
	keep.latched_slot = m.slot;
	keep_save();
	stop(FAULT_RUNAWAY);
}

/* Each motor that is home again loses power at once; true if that was the last. */
static bool arrived(void)
{
	uint16_t there = m.running & m.left & m.home;

	if (!there)
		return false;
	m.running &= (uint16_t)~there;
	if (m.running)
		hal_motor_only(m.running);
	return !m.running;
}

static void turn(void)
{
	uint32_t on = now - m.on_at;
	uint8_t wrong;

	sample_home();
	if (m.kind == MOTION_VEND && hal_door_open()) {
		stop(FAULT_DOOR_OPENED);
	} else if (let_go()) {
		stop(0);
	} else if (m.half && !m.drops && on >= m.turn_ms / 2) {
		stop(0);
	} else if (arrived()) {
		m.half = false;
		if (!m.turn_ms)
			m.turn_ms = on;
		stop(0);
	} else if (hal_motor_tripped() || on >= config.turn_ms) {
		runaway();
	} else if (m.left != (m.left | m.running) && on >= config.leave_ms) {
		stop(FAULT_STUCK_HOME);
	} else {
		wrong = judge_current();
		if (wrong)
			stop(wrong);
	}
}

static bool watch_over(void)
{
	if (m.drops) {
		/* a second piece may be close behind */
		uint32_t from = (int32_t)(m.drop_at - m.stop_at) > 0 ? m.drop_at : m.stop_at;
		return now - from >= LIM_SETTLE_MS;
	}
	if (!m.cause && m.halves && m.halves < LIM_HALF_TURNS)
		return now - m.stop_at >= LIM_PAUSE_MS;
	return now - m.stop_at >= LIM_WATCH_MS;
}

static void end(void)
{
	struct record r;

	if (!m.cause && !m.drops)
		m.cause = FAULT_NO_DROP;
	else if (!m.cause && m.drops > 1)
		m.cause = FAULT_DOUBLE_DROP;
	else if (!m.cause && m.turn_ms > config.slow_ms)
		m.cause = FAULT_SLOW;
	m.phase = PHASE_END;
	r = record_of(REC_END);
	r.home = motion_at_home(m.slot);
	keep_record(&r);
}

static void watch(void)
{
	bool astray = !m.cause && m.half;	/* a half-turn has left the spiral away from home */

	if (m.drops && astray && !hal_door_open()) {
		m.half = false;
		start(PHASE_AGAIN, true);
		return;
	}
	if (!watch_over())
		return;
	if (m.kind != MOTION_VEND) {
		m.phase = PHASE_DONE;
		return;
	}
	if (!keep_recorded())
		return;		/* a drop is on its way into the journal */
	if (astray || (!m.cause && !m.drops && m.halves < LIM_HALF_TURNS)) {
		if (hal_door_open()) {
			m.cause = FAULT_DOOR_OPENED;
		} else {
			m.halves++;
			m.half = m.halves == 1;	/* the second ends at home, the third runs through to it */
			start(PHASE_AGAIN, m.halves == 2);
			return;
		}
	}
	end();
}

static void ended(void)
{
	if (journal_failed()) {
		lost = record_of(REC_END);
		keep.drops += motion_unnoted();	/* no record will count them */
	}
	m.kind = MOTION_NONE;
}

/* A drop is in the journal before the end of the vend is. */
static void note_drops(void)
{
	struct record r;

	if (m.kind != MOTION_VEND || m.phase < PHASE_LEAVE || m.phase > PHASE_AGAIN || !keep_recorded())
		return;
	if (m.noting != m.noted && !journal_failed())
		m.noted = m.noting;
	if (m.drops == m.noting || m.notes == NOTES)
		return;
	m.notes++;
	m.noting = m.drops;
	r = record_of(REC_DROP);
	keep_record(&r);
}

static void see(uint8_t n)
{
	bool watched = m.kind && m.phase >= PHASE_LEAVE && m.phase <= PHASE_AGAIN;

	if (!n)
		return;
	if (watched) {
		if (!m.drops)
			m.drop_at = now;
		m.drops = (uint8_t)(m.drops > 0xff - n ? 0xff : m.drops + n);
	} else {
		cabinet_stray(n);
	}
	if (watched && m.kind == MOTION_VEND)
		return;		/* counted with its record */
	keep.drops += n;
	if (now - stray_at >= STRAY_SAVE_MS) {
		stray_at = now;
		keep_save();
	}
}

void motion_poll(void)
{
	now = hal_now_ms();
	see(cabinet_drops());
	note_drops();
	if (!m.kind)
		return;
	switch (m.phase) {
	case PHASE_STORE:
		if (m.kind == MOTION_VEND ? keep_recorded() : keep_saved())
			stored();
		return;
	case PHASE_LEAVE:
	case PHASE_RETURN:
	case PHASE_AGAIN:
		turn();
		return;
	case PHASE_WATCH:
		watch();
		return;
	case PHASE_END:
		if (keep_recorded())
			ended();
		return;
	default:	/* PHASE_DONE: board lets go of it */
		return;
	}
}
