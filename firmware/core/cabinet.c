#include "cabinet.h"
#include "hal.h"
#include "proto.h"

/* A photo transistor needs well under a millisecond; the clock ticks in one. */
enum { SETTLE_MS = 3 };

static enum { READY, EMITTER_OFF, EMITTER_ON } test;
static uint32_t test_at, heard_at;
static uint8_t curtain, seen, percent;
static uint16_t strays;
static bool dark, alone;

void cabinet_init(void)
{
	seen = hal_drops();
	strays = 0;
	dark = false;
	curtain = CURTAIN_UNTESTED;
	heard_at = hal_now_ms();
	alone = true;
	hal_lock(0);
	cabinet_light(LIM_DIM_PERCENT);
	cabinet_test();
}

void cabinet_test(void)
{
	hal_emitter(false);
	test = EMITTER_OFF;
	test_at = hal_now_ms();
}

static void test_poll(uint32_t now)
{
	if (now - test_at < SETTLE_MS)
		return;
	test_at = now;
	if (test == EMITTER_OFF) {
		curtain = hal_beam_dark() ? CURTAIN_GOOD : CURTAIN_BLIND;
		hal_emitter(true);
		test = EMITTER_ON;
	} else {
		test = READY;
	}
}

void cabinet_poll(void)
{
	uint32_t now = hal_now_ms();

	if (test != READY)
		test_poll(now);
	if (test == READY)
		dark = hal_beam_dark();
	if (!alone && now - heard_at >= LIM_HEARTBEAT_MS) {
		alone = true;
		hal_lock(0);
		cabinet_light(LIM_DIM_PERCENT);
	}
}

void cabinet_heard(void)
{
	heard_at = hal_now_ms();
	alone = false;
}

bool cabinet_testing(void)
{
	return test != READY;
}

uint8_t cabinet_curtain(void)
{
	return curtain;
}

bool cabinet_dark(void)
{
	return dark;
}

bool cabinet_sensor_bad(void)
{
	return dark || curtain != CURTAIN_GOOD;
}

uint8_t cabinet_drops(void)
{
	uint8_t now = hal_drops(), n = (uint8_t)(now - seen);

	seen = now;
	return n;
}

void cabinet_stray(uint8_t n)
{
	strays = (uint16_t)(strays > 0xffff - n ? 0xffff : strays + n);
}

uint16_t cabinet_strays(void)
{
	return strays;
}

void cabinet_strays_clear(void)
{
	strays = 0;
}

void cabinet_light(uint8_t p)
{
	percent = p;
	hal_light(p);
}

uint8_t cabinet_light_is(void)
{
	return percent;
}
