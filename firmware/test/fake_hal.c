#include "fake.h"

#include "../core/board.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake fake;

static jmp_buf power_fails;

void fake_breach(const char *file, int line, const char *what)
{
	printf("%s:%d: at %u ms of boot %u the core broke: %s\n", file, line, fake.now - fake.booted, fake.boots, what);
	fflush(stdout);
	abort();
}

void fake_new(void)
{
	memset(&fake, 0, sizeof fake);
	memset(fake.ee, 0xff, sizeof fake.ee);
	fake.dead = true;
	fake.polls = 1;
	fake.serial = 0x1122334455667788;
	fake.centi_c = 2150;
	fake.centi_rh = 4500;
	for (uint8_t i = 0; i < LIM_SLOTS; i++) {
		struct spiral *s = &fake.slot[i];

		s->turn_ms = USUAL_TURN_MS;
		s->pieces = 10;
		s->pos = 20000;
		s->was_home = true;
	}
}

/* -- spirals and what falls -- */

void fake_fall(uint32_t in_ms)
{
	KEEP(fake.nfalls < FALLS);
	fake.falls[fake.nfalls++] = fake.now + in_ms;
}

static bool at_home(const struct spiral *s)
{
	return s->stuck_home || (s->pos < TURN_HOME && !s->lost_home);
}

/* A piece lies at the edge and the spiral goes past. */
static void push(struct spiral *s)
{
	uint8_t n = s->twice ? 2 : 1;

	if (s->hang) {
		s->hang--;
		return;
	}
	if (n > s->pieces)
		n = s->pieces;
	s->pieces = (uint8_t)(s->pieces - n);
	if (s->late_ms) {
		s->edge = (uint8_t)(s->edge + n);
		return;
	}
	for (uint8_t i = 0; i < n; i++)
		fake_fall(FALL_MS + i * (uint32_t)APART_MS);
}

/* How far it turns in a millisecond. */
static uint32_t step_of(const struct spiral *s)
{
	return (uint32_t)TURN / s->turn_ms;
}

static void turn_1ms(struct spiral *s)
{
	uint32_t to = s->pos + step_of(s);

	if (s->absent || s->shorted)
		return;
	if (s->jam && s->pos <= TURN_JAM && to > TURN_JAM) {
		s->pos = TURN_JAM;
		return;
	}
	if (s->pos < TURN_EDGE && to >= TURN_EDGE)
		push(s);
	s->lost_home = s->runaway && (s->lost_home || to >= TURN_HOME);
	s->pos = to % TURN;
	if (at_home(s) != s->was_home) {
		s->was_home = !s->was_home;
		s->changed = fake.now;
	}
}

static struct spiral *running(uint8_t col)
{
	return (fake.cols & 1u << col) ? &fake.slot[fake.row * LIM_COLUMNS + col] : NULL;
}

/* Pieces that hang on the edge fall some time after the motor has stopped. */
static void let_go(struct spiral *s)
{
	for (; s->edge; s->edge--)
		fake_fall(s->late_ms + (uint32_t)FALL_MS + (s->edge - 1u) * APART_MS);
}

static void stop(uint16_t cols)
{
	uint32_t on = fake.now - fake.on_at;

	if (!(fake.cols & cols))
		return;
	if (on > fake.longest_on)
		fake.longest_on = on;
	for (uint8_t c = 0; c < LIM_COLUMNS; c++)
		if (cols & 1u << c && running(c))
			let_go(running(c));
	fake.cols &= (uint16_t)~cols;
}

static void motors_1ms(void)
{
	if (!fake.cols)
		return;
	for (uint8_t c = 0; c < LIM_COLUMNS; c++)
		if (running(c))
			turn_1ms(running(c));
	KEEP(fake.now - fake.on_at <= LIM_MAX_TURN_MS);
	if (fake.now - fake.on_at >= fake.on_limit) {
		stop(0xffff);
		fake.tripped = true;
	}
}

static bool beam_dark(void)
{
	if (fake.blind)
		return false;
	if (fake.blocked || !fake.emitter)
		return true;
	for (uint8_t i = 0; i < fake.nfalls; i++)
		if (fake.now - fake.falls[i] < PASS_MS)
			return true;
	return false;
}

static void beam_1ms(void)
{
	if (fake.emitter && !fake.dead && beam_step(&fake.beam, beam_dark()))
		fake.drops++;
	for (uint8_t i = 0; i < fake.nfalls; i++) {
		if (fake.now - fake.falls[i] != PASS_MS)
			continue;
		fake.fallen++;
		fake.falls[i--] = fake.falls[--fake.nfalls];
	}
}

static void world_1ms(void);

/* -- EEPROM, and the police over the journal -- */

enum { RING = 16, RING_END = 3472, REC = 16 };

/* The core's own limit comes first, and the hal's this much later at most. */
enum { SPARE_MS = 50 };

static uint16_t crc16(const uint8_t *p, uint8_t n)
{
	uint16_t crc = 0xffff;

	while (n--) {
		crc ^= *p++;
		for (uint8_t i = 0; i < 8; i++)
			crc = (uint16_t)(crc & 1 ? crc >> 1 ^ 0x8408 : crc >> 1);
	}
	return crc;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A record is whole when its last byte is: see what the core may do now. */
static void watch_journal(uint16_t at)
{
	const uint8_t *r = &fake.ee[at - (at - RING) % REC];

	if (at < RING || at >= RING_END || crc16(r, 14) != (uint16_t)(r[14] | r[15] << 8))
		return;
	switch (r[2] & 0x7f) {
	case 1:
		fake.start_id = get32(r + 4);
		fake.start_slot = r[3];
		fake.start_count = 0;
		break;
	case 3:
		if (get32(r + 4) == fake.start_id)
			fake.start_id = 0;
		break;
	default:
		break;
	}
}

static void ee_set(uint16_t at, uint8_t value)
{
	fake.ee[at] = value | fake.stuck[at];
	fake.ee_busy = false;
	watch_journal(at);
}

bool hal_ee_ready(void)
{
	return !fake.ee_busy;
}

/* The chip reads nothing while it writes: the world goes on meanwhile. */
uint8_t hal_ee_read(uint16_t addr)
{
	KEEP(addr < HAL_EE_SIZE);
	while (fake.ee_busy)
		world_1ms();
	return fake.ee[addr];
}

void hal_ee_write(uint16_t addr, uint8_t value)
{
	KEEP(!fake.ee_busy);
	KEEP(addr >= RING && addr < HAL_EE_SIZE);
	fake.ee_busy = true;
	fake.ee_at = addr;
	fake.ee_value = value;
	fake.ee_done = fake.now + EE_BYTE_MS;
	fake.ee_writes++;
	if (fake.cut_in && !--fake.cut_in) {
		fake_torn(fake.torn);
		longjmp(power_fails, 1);
	}
}

void fake_torn(uint8_t value)
{
	if (fake.ee_busy)
		ee_set(fake.ee_at, value);
	fake_cut();
}

/* -- motors -- */

bool fake_powered(uint32_t id)
{
	for (uint8_t i = 0; i < POWERED; i++)
		if (fake.powered[i] == id)
			return true;
	return false;
}

void hal_motor_on(uint8_t row, uint16_t cols, uint16_t max_ms)
{
	uint8_t left = 0;

	KEEP(row < LIM_SLOTS / LIM_COLUMNS);
	KEEP(cols && cols < 1u << LIM_COLUMNS);
	KEEP(max_ms && max_ms <= LIM_MAX_TURN_MS + SPARE_MS);
	KEEP(!fake.restart);
	while (!(cols & 1u << left))
		left++;
	KEEP(cols == 1u << left || cols == 3u << left);

	/* A motor turns for a record that is whole, or for a finger; for its own slot,
	 * or as the right one of a pair whose left one is home already. */
	uint8_t slot = (uint8_t)(row * LIM_COLUMNS + left + 1);

	if (fake.now > fake.held_until[slot] && fake.now > fake.held_until[slot - 1]) {
		KEEP(fake.start_id && (fake.start_slot == slot || fake.start_slot + 1 == slot));
		KEEP(++fake.start_count <= 1 + LIM_HALF_TURNS);
		KEEP(!fake.door);
		if (fake.start_count == 1) {
			KEEP(!fake_powered(fake.start_id));
			fake.powered[fake.npowered++ % POWERED] = fake.start_id;
		}
	}
	stop(0xffff);
	fake.row = row;
	fake.cols = cols;
	fake.on_at = fake.now;
	fake.on_limit = max_ms;
	fake.tripped = false;
	fake.on_count++;
}

void hal_motor_only(uint16_t cols)
{
	KEEP(!(cols & ~fake.cols) || fake.tripped);
	stop((uint16_t)~cols);
}

void hal_motor_off(void)
{
	stop(0xffff);
}

bool hal_motor_tripped(void)
{
	return fake.tripped;
}

static uint16_t current(const struct spiral *s)
{
	if (s->shorted)
		return SHORT_MA;
	if (s->absent)
		return 0;
	if (fake.now - fake.on_at < INRUSH_FAKE_MS)
		return INRUSH_MA;
	if (s->jam && s->pos == TURN_JAM)
		return JAM_MA;
	return s->turn_ms > USUAL_TURN_MS ? SLOW_MA : RUN_MA;
}

uint16_t hal_motor_ma(void)
{
	uint16_t sum = 0;

	for (uint8_t c = 0; c < LIM_COLUMNS; c++)
		if (running(c))
			sum = (uint16_t)(sum + current(running(c)));
	return sum > 5000 ? 5000 : sum;
}

uint16_t hal_home(uint8_t row)
{
	uint16_t bits = 0;

	KEEP(row < LIM_SLOTS / LIM_COLUMNS);
	for (uint8_t c = 0; c < LIM_COLUMNS; c++) {
		const struct spiral *s = &fake.slot[row * LIM_COLUMNS + c];
		bool closed = at_home(s);

		if (fake.now - s->changed < s->bounce_ms)
			closed ^= (fake.now - s->changed) & 1;
		if (s->glitch && s->pos >= s->glitch && s->pos < s->glitch + step_of(s))
			closed = !closed;
		if (closed)
			bits = (uint16_t)(bits | 1u << c);
	}
	return bits;
}

/* -- the rest of the hal -- */

uint32_t hal_now_ms(void)
{
	return fake.now - fake.booted;
}

uint8_t hal_drops(void)
{
	return fake.drops;
}

bool hal_beam_dark(void)
{
	return beam_dark();
}

void hal_emitter(bool on)
{
	if (on && !fake.emitter)
		memset(&fake.beam, 0, sizeof fake.beam);
	fake.emitter = on;
}

bool hal_door_open(void)
{
	return fake.door;
}

void hal_lock(uint16_t ms)
{
	KEEP(ms <= LIM_MAX_LOCK_MS);
	fake.lock = ms != 0;
	fake.lock_until = fake.now + ms;
}

bool hal_lock_open(void)
{
	return fake.lock;
}

void hal_light(uint8_t percent)
{
	KEEP(percent <= 100);
	fake.light = percent;
}

/* The bytes between two zeros: is it a HOLD? */
static void overhear(void)
{
	uint8_t raw[256], n = 0, i = 0;

	while (i < fake.heard_n) {
		uint8_t code = fake.heard[i++];

		if (i + code - 1 > fake.heard_n)
			return;
		while (--code)
			raw[n++] = fake.heard[i++];
		if (i < fake.heard_n)
			raw[n++] = 0;
	}
	if (n != 4 + MSG_HOLD_LEN || raw[0] != MSG_HOLD || crc16(raw, 5) != (uint16_t)(raw[5] | raw[6] << 8))
		return;
	if (raw[2 + MSG_HOLD_SLOT] <= LIM_SLOTS)
		fake.held_until[raw[2 + MSG_HOLD_SLOT]] = fake.now + LIM_HOLD_MS;
}

int16_t hal_rx(void)
{
	uint8_t byte;

	if (fake.rx_out == fake.rx_in)
		return -1;
	byte = fake.rx[fake.rx_out++ % RX_MAX];
	if (!byte) {
		overhear();
		fake.heard_n = 0;
	} else if (fake.heard_n < 255) {
		fake.heard[fake.heard_n++] = byte;
	}
	return byte;
}

uint8_t hal_tx_room(void)
{
	return (uint8_t)(TX_RING - fake.tx_n);
}

void hal_tx(uint8_t byte)
{
	KEEP(fake.tx_n < TX_RING);
	fake.tx[fake.tx_n++] = byte;
}

uint8_t hal_reset_cause(void)
{
	return fake.cause;
}

uint64_t hal_serial(void)
{
	return fake.serial;
}

uint32_t hal_build(void)
{
	return 0xfeedc0de;
}

void hal_restart(void)
{
	KEEP(!fake.cols);
	fake.restart = true;
}

/* -- I2C with an SHT3x at its end -- */

static uint8_t crc8(const uint8_t *p, uint8_t n)
{
	uint8_t crc = 0xff;

	while (n--) {
		crc ^= *p++;
		for (uint8_t i = 0; i < 8; i++)
			crc = (uint8_t)(crc & 0x80 ? crc << 1 ^ 0x31 : crc << 1);
	}
	return crc;
}

static void start_i2c(uint8_t addr, uint8_t *buf, uint8_t n, bool reading)
{
	KEEP(!fake.i2c_busy);
	KEEP(n > 0);
	fake.i2c_busy = true;
	fake.i2c_failed = false;
	fake.i2c_addr = addr;
	fake.i2c_buf = buf;
	fake.i2c_n = n;
	fake.i2c_reading = reading;
	fake.i2c_done = fake.now + 1;
}

void hal_i2c_write(uint8_t addr, const uint8_t *buf, uint8_t n)
{
	static uint8_t copy[8];

	KEEP(n <= sizeof copy);
	memcpy(copy, buf, n);
	start_i2c(addr, copy, n, false);
}

void hal_i2c_read(uint8_t addr, uint8_t *buf, uint8_t n)
{
	start_i2c(addr, buf, n, true);
}

enum hal_i2c hal_i2c_state(void)
{
	if (fake.i2c_busy)
		return HAL_I2C_BUSY;
	return fake.i2c_failed ? HAL_I2C_FAILED : HAL_I2C_DONE;
}

void hal_i2c_abort(void)
{
	fake.i2c_busy = false;
	fake.i2c_failed = true;
	fake.aborts++;
}

static void answer_i2c(void)
{
	uint32_t t = (uint32_t)((fake.centi_c + 4500) * 65535L / 17500);
	uint32_t rh = fake.centi_rh * 65535u / 10000;
	uint8_t r[6] = { (uint8_t)(t >> 8), (uint8_t)t, 0, (uint8_t)(rh >> 8), (uint8_t)rh, 0 };

	if (fake.climate == CLIMATE_ALL_ONES)
		r[0] = r[1] = r[3] = r[4] = 0xff;
	r[2] = (uint8_t)(crc8(r, 2) ^ (fake.climate == CLIMATE_BAD_T));
	r[5] = (uint8_t)(crc8(r + 3, 2) ^ (fake.climate == CLIMATE_BAD_RH));
	memcpy(fake.i2c_buf, r, fake.i2c_n < sizeof r ? fake.i2c_n : sizeof r);
}

/* The sensor measures for 15 ms after it was told to, and refuses to be read before. */
static void i2c_1ms(void)
{
	if (!fake.i2c_busy || fake.now < fake.i2c_done || fake.climate == CLIMATE_HANGS)
		return;
	fake.i2c_busy = false;
	fake.i2c_failed = fake.climate == CLIMATE_ABSENT || (fake.i2c_addr != 0x44 && fake.i2c_addr != 0x45);
	if (fake.i2c_failed)
		return;
	if (!fake.i2c_reading) {
		if (fake.i2c_n == 2 && fake.i2c_buf[0] == 0x24)
			fake.measured = fake.now + 15;
		return;
	}
	fake.i2c_failed = !fake.measured || fake.now < fake.measured;
	if (fake.i2c_failed)
		return;
	fake.measured = 0;
	answer_i2c();
}

/* -- time and power -- */

static void line_1ms(void)
{
	uint8_t n = fake.tx_n < TX_BYTES_PER_MS ? fake.tx_n : TX_BYTES_PER_MS;

	if (fake.tx_stopped)
		return;
	KEEP(fake.out_n + n <= OUT_MAX);
	memcpy(fake.out + fake.out_n, fake.tx, n);
	memmove(fake.tx, fake.tx + n, (size_t)(fake.tx_n - n));
	fake.out_n = (uint16_t)(fake.out_n + n);
	fake.tx_n = (uint8_t)(fake.tx_n - n);
}

void fake_send(const uint8_t *p, uint16_t n)
{
	for (uint16_t i = 0; i < n && !fake.dead; i++) {
		KEEP((uint16_t)(fake.rx_in - fake.rx_out) < RX_MAX);
		fake.rx[fake.rx_in++ % RX_MAX] = p[i];
	}
}

void fake_cut(void)
{
	if (fake.ee_busy)
		ee_set(fake.ee_at, fake.ee_value);
	stop(0xffff);
	fake.dead = true;
	fake.emitter = fake.lock = fake.i2c_busy = fake.tripped = false;
	fake.light = fake.tx_n = 0;
	fake.rx_in = fake.rx_out = 0;
	fake.cut_in = 0;
	fake.start_id = 0;
	memset(fake.held_until, 0, sizeof fake.held_until);
	fake.heard_n = 0;
}

void fake_boot(uint8_t cause)
{
	fake_cut();
	fake.dead = fake.restart = false;
	fake.boots++;
	fake.booted = fake.now;
	fake.cause = cause;
	fake.drops = 0;
	fake.emitter = false;
	memset(&fake.beam, 0, sizeof fake.beam);
	fake.out_n = 0;
	board_init();
}

static void world_1ms(void)
{
	fake.now++;
	motors_1ms();
	beam_1ms();
	if (fake.dead)
		return;
	if (fake.lock && fake.now >= fake.lock_until)
		fake.lock = false;
	if (fake.ee_busy && fake.now >= fake.ee_done)
		ee_set(fake.ee_at, fake.ee_value);
	i2c_1ms();
	line_1ms();
}

/* The core runs until it has nothing to do, or until power fails in a write. */
static void poll(void)
{
	if (!setjmp(power_fails))
		board_poll();
}

bool fake_tick(uint32_t ms)
{
	while (ms--) {
		world_1ms();
		for (uint8_t i = 0; i < fake.polls && !fake.dead; i++)
			poll();
	}
	return !fake.dead;
}
