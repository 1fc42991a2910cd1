/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <simavr/avr_extint.h>

#include "sim.h"

/* Registers of the ATmega2560, data space addresses. */
enum { REG_MCUSR = 0x54, MCUSR_PORF = 1, MCUSR_EXTRF = 2, MCUSR_BORF = 4 };


static avr_t *avr;
static bool powered, was_reset, stepping;
static uint64_t run_end = NEVER, cut_at = NEVER;
static bool cut_soon;
static unsigned resets;
static uint32_t random_state;
static uint8_t ram_fill[65536];	/* what RAM held at power on */
static struct { bool on; uint32_t addr; uint8_t was[2]; } patch;
static void (*core_reset)(avr_t *);

avr_t *chip_avr(void) { return avr; }
uint64_t chip_now(void) { return avr ? avr->cycle : 0; }
bool chip_powered(void) { return powered; }
unsigned chip_resets(void) { return resets; }

uint32_t chip_random(void)	/* xorshift: the same on every machine */
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	return random_state ^= random_state << 5;
}

static uint64_t chip_next(void)
{
	uint64_t t = earlier(run_end, powered ? cut_at : NEVER);

	t = earlier(t, eeprom_next());
	t = earlier(t, line_next());
	return earlier(t, cabinet_next());
}

static void chip_step(uint64_t now)
{
	stepping = true;
	eeprom_step(now);
	line_step(now);
	cabinet_step(now);
	stepping = false;
	if (powered && now >= cut_at)
		chip_cut_soon();
}

/* chip_wake is our only timer in the chip: it is due when any part is. */
static avr_cycle_count_t chip_wake(avr_t *a, avr_cycle_count_t when, void *param)
{
	uint64_t next;

	(void)when, (void)param;
	chip_step(a->cycle);
	next = chip_next();
	if (next == NEVER)
		return 0;
	/* What is due at once comes with the next instruction: a timer that gives
	 * the present as its next time is called again without end. */
	return next > a->cycle ? next : a->cycle + 1;
}

void chip_changed(void)
{
	uint64_t next;

	if (!powered || stepping)
		return;		/* who calls looks for itself */
	next = chip_next();
	if (next == NEVER)
		avr_cycle_timer_cancel(avr, chip_wake, NULL);
	else
		avr_cycle_timer_register(avr, next > avr->cycle ? next - avr->cycle : 1, chip_wake, NULL);
}

/* simavr clears every timer in a reset, ours too, and the core's reset function is
 * the place to learn of it. avr_cycle_timer_status cannot tell: it answers 0 for
 * a timer overdue by exactly one cycle, which a sleeping chip makes of most. */
static void chip_core_reset(avr_t *a)
{
	was_reset = true;
	if (core_reset != NULL)
		core_reset(a);
}

static void chip_unpatch(void)
{
	if (patch.on)
		memcpy(avr->flash + patch.addr, patch.was, 2);
	patch.on = false;
}

static void chip_after_reset(void)
{
	was_reset = false;
	chip_unpatch();
	avr->state = cpu_Running;
	avr->run_cycle_limit = CYC_MS;	/* 1 after a reset: a hundred times slower */
	/* Else a low pin that could be an interrupt is polled at every cycle, enabled or not. */
	for (uint8_t i = 0; i < 8; i++)
		avr_extint_set_strict_lvl_trig(avr, i, 0);
	eeprom_reset();
	line_reset();
	climate_reset();
	cabinet_reset();
	chip_changed();
}

static void chip_boot(uint8_t why)
{
	avr_reset(avr);
	for (uint32_t i = avr->ioend + 1u; i <= avr->ramend; i++)
		avr->data[i] = ram_fill[i] = (uint8_t)chip_random();
	avr->data[REG_MCUSR] = why;
	powered = true;
	cut_soon = false;
	log_event("\"ev\":\"power\",\"on\":true");
	chip_after_reset();
}

void chip_power_on(void)
{
	if (!powered)
		chip_boot(MCUSR_PORF);
}

void chip_power_off(void)
{
	if (!powered)
		return;
	eeprom_power_off();
	powered = false;
	cut_soon = false;
	cut_at = NEVER;
	line_power_off();
	cabinet_reset();
	log_event("\"ev\":\"power\",\"on\":false");
}

void chip_brown_out(void)
{
	if (!powered)
		return;
	chip_power_off();
	chip_boot(MCUSR_BORF);
}

static void chip_was_reset(void)
{
	resets++;
	log_event("\"ev\":\"reset\",\"mcusr\":%u", avr->data[REG_MCUSR]);
	chip_after_reset();
}

void chip_reset(void)
{
	if (!powered)
		return;
	avr_reset(avr);
	avr->data[REG_MCUSR] = MCUSR_EXTRF;
	chip_was_reset();
}

void chip_cut_soon(void)
{
	cut_soon = true;
	avr_cycle_timer_register(avr, 1, chip_wake, NULL);	/* ends the batch of instructions */
}

void chip_cut_at(uint64_t when)
{
	cut_at = when;
	chip_changed();
}

bool chip_patch(uint32_t addr, uint16_t instruction)
{
	if (addr + 1 > avr->flashend || addr & 1)
		return false;
	chip_unpatch();
	patch.on = true;
	patch.addr = addr;
	memcpy(patch.was, avr->flash + addr, 2);
	avr->flash[addr] = (uint8_t)instruction;
	avr->flash[addr + 1] = (uint8_t)(instruction >> 8);
	return true;
}

unsigned chip_ram_free(void)
{
	unsigned best = 0, run = 0;

	for (uint32_t i = avr->ioend + 1u; i <= avr->ramend; i++) {
		run = avr->data[i] == ram_fill[i] ? run + 1 : 0;
		if (run > best)
			best = run;
	}
	return best;
}

static void chip_instruction(void)
{
	int state = avr_run(avr);

	if (state == cpu_Done || state == cpu_Crashed)
		log_fatal("the firmware crashed or slept with interrupts off at 0x%x, %llu us after the first power on",
			avr->pc, (unsigned long long)(avr->cycle / CYC_US));
	if (was_reset)
		chip_was_reset();
}

static void chip_dead_until(uint64_t end)
{
	uint64_t next;

	while ((next = chip_next()) < end) {
		if (next > avr->cycle)
			avr->cycle = next;
		chip_step(avr->cycle);
	}
	avr->cycle = end;
}

void chip_run(uint64_t cycles, bool to_frame)
{
	bool was = powered;
	uint64_t end = avr->cycle + cycles;

	run_end = end;
	chip_changed();
	while (avr->cycle < end && powered == was && !(to_frame && line_frame_end())) {
		if (!powered) {
			chip_dead_until(end);
			break;
		}
		chip_instruction();
		if (cut_soon)
			chip_power_off();
	}
	run_end = NEVER;
}

static void chip_no_sleep(avr_t *a, avr_cycle_count_t n) { (void)a, (void)n; }	/* ours is the pace */

static void chip_log(avr_t *a, const int level, const char *fmt, va_list ap)
{
	(void)a;
	if (level <= LOG_ERROR)
		vfprintf(stderr, fmt, ap);
}

void chip_init(const struct chip_options *o)
{
	random_state = o->seed != 0 ? o->seed : 1;
	avr_global_logger_set(chip_log);
	avr = avr_make_mcu_by_name("atmega2560");
	if (avr == NULL)
		log_fatal("this libsimavr has no atmega2560");
	avr_init(avr);
	avr->log = LOG_ERROR;
	avr->frequency = SIM_HZ;
	avr->vcc = avr->avcc = avr->aref = 5000;
	avr->sleep = chip_no_sleep;
	flash_load(avr, o->elf);
	if (o->serial != 0)
		flash_set_serial(avr, o->serial);
	core_reset = avr->reset;
	avr->reset = chip_core_reset;
	eeprom_init(o->eeprom);
	line_init();
	climate_init();
	cabinet_init();
	chip_power_on();
}
