#include "climate.h"
#include "crc.h"
#include "hal.h"

enum {
	ADDRESS = 0x44,
	EVERY_MS = 10000,
	AGAIN_MS = 1000,	/* after a failure */
	FAILURES = 3,		/* in a row, and the last reading is no longer believed */
	MEASURE_MS = 20,	/* high repeatability takes 15 */
	TRANSFER_MS = 50,	/* six bytes take 1 ms at 100 kHz */
};

static enum { WAIT, ASK, MEASURE, READ } step;
static uint32_t at, due;	/* when this step began, when the next reading is due */
static uint8_t buf[6], failures;
static bool known;
static int16_t centi_c;
static uint16_t centi_rh;

void climate_init(void)
{
	step = WAIT;
	due = hal_now_ms();
	failures = 0;
	known = false;
	centi_c = 0;
	centi_rh = 0;
}

static void enter(uint8_t next, uint32_t now)
{
	step = next;
	at = now;
}

static void fail(uint32_t now)
{
	enter(WAIT, now);
	due = now + AGAIN_MS;
	if (failures < FAILURES)
		failures++;
	if (failures == FAILURES) {
		known = false;
		centi_c = 0;
		centi_rh = 0;
	}
}

static void take(uint32_t now)
{
	uint32_t t = (uint32_t)buf[0] << 8 | buf[1], rh = (uint32_t)buf[3] << 8 | buf[4];

	if (crc8(buf, 2) != buf[2] || crc8(buf + 3, 2) != buf[5]) {
		fail(now);
		return;
	}
	/* Data sheet: T = -45 + 175 raw/65535 degrees, RH = 100 raw/65535 percent. */
	centi_c = (int16_t)((int32_t)((t * 17500 + 32767) / 65535) - 4500);
	centi_rh = (uint16_t)((rh * 10000 + 32767) / 65535);
	known = true;
	failures = 0;
	enter(WAIT, now);
	due = now + EVERY_MS;
}

void climate_poll(void)
{
	static const uint8_t measure[2] = { 0x24, 0x00 };	/* once, high repeatability, no clock stretching */
	uint32_t now = hal_now_ms();

	switch (step) {
	case WAIT:
		if ((int32_t)(now - due) < 0)
			return;
		hal_i2c_write(ADDRESS, measure, sizeof measure);
		enter(ASK, now);
		return;
	case MEASURE:
		if (now - at < MEASURE_MS)
			return;
		hal_i2c_read(ADDRESS, buf, sizeof buf);
		enter(READ, now);
		return;
	case ASK:
	case READ:
		switch (hal_i2c_state()) {
		case HAL_I2C_BUSY:
			if (now - at >= TRANSFER_MS) {
				hal_i2c_abort();
				fail(now);
			}
			return;
		case HAL_I2C_FAILED:
			fail(now);
			return;
		case HAL_I2C_DONE:
			if (step == ASK)
				enter(MEASURE, now);
			else
				take(now);
			return;
		}
	}
}

bool climate_known(void)
{
	return known;
}

int16_t climate_centi_c(void)
{
	return centi_c;
}

uint16_t climate_centi_rh(void)
{
	return centi_rh;
}
