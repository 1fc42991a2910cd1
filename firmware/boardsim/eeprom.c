/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * simavr stores a byte at once and is never busy. Here a write takes its time, is
 * torn if power is lost meanwhile, and what silicon would ignore is a FAULT. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <simavr/avr_eeprom.h>

#include "sim.h"

enum {
	REG_EECR = 0x3f, REG_EEARL = 0x41, REG_EEARH = 0x42,
	EERE = 0x01, EEPE = 0x02, EEMPE = 0x04,
	EE_SIZE = 4096,
	EE_ENABLED = 6,		/* cycles that EEMPE may be ahead of EEPE: four, and the instruction itself */
};
#define EE_WRITE_CYCLES (CYC_MS * 34ull / 10)

static uint8_t *cells;		/* simavr's own */
static uint8_t shadow[EE_SIZE];	/* what they held before the present write */
static int fd = -1;
static uint64_t busy_until = NEVER, enabled_at = NEVER;
static uint16_t busy_addr;
static uint8_t busy_old;
static unsigned writes, cut_after;
static int torn_how = TORN_RANDOM;
static bool fails;

unsigned eeprom_writes(void) { return writes; }
void eeprom_torn(int how) { torn_how = how; }
void eeprom_fails(bool f) { fails = f; }
void eeprom_cut_after(unsigned n) { cut_after = n; }
uint64_t eeprom_next(void) { return busy_until; }

static void eeprom_set(uint16_t addr, uint8_t value)
{
	cells[addr] = shadow[addr] = value;
	if (fd >= 0 && pwrite(fd, &value, 1, addr) != 1)
		log_fatal("cannot write the EEPROM file");
}

static void eeprom_start(avr_t *avr)
{
	uint16_t addr = (uint16_t)((avr->data[REG_EEARL] | avr->data[REG_EEARH] << 8) & (EE_SIZE - 1));
	uint8_t value = cells[addr];

	if (busy_until != NEVER) {
		log_event("\"ev\":\"FAULT\",\"why\":\"EEPROM written while it was busy\"");
		cells[addr] = shadow[addr];
		return;
	}
	busy_addr = addr;
	busy_old = shadow[addr];
	busy_until = avr->cycle + EE_WRITE_CYCLES;
	writes++;
	eeprom_set(addr, fails ? busy_old : value);
	chip_changed();
	if (cut_after > 0 && --cut_after == 0)
		chip_cut_soon();
}

/* Runs behind simavr's own handler, which has stored or fetched the byte and
 * cleared EEPE. */
static void eeprom_on_eecr(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	bool enabled = enabled_at != NEVER && avr->cycle - enabled_at <= EE_ENABLED;

	(void)param;
	if ((v & EERE) && busy_until != NEVER)
		log_event("\"ev\":\"FAULT\",\"why\":\"EEPROM read while it was busy\"");
	if ((v & EEPE) && enabled)
		eeprom_start(avr);
	enabled_at = (v & EEMPE) && !(v & EEPE) ? avr->cycle : NEVER;
	if (busy_until != NEVER)
		avr->data[addr] |= EEPE;
}

void eeprom_step(uint64_t now)
{
	if (now < busy_until)
		return;
	busy_until = NEVER;
	if (chip_powered())
		chip_avr()->data[REG_EECR] &= (uint8_t)~EEPE;
}

void eeprom_reset(void)
{
	enabled_at = NEVER;
	if (busy_until != NEVER)
		chip_avr()->data[REG_EECR] |= EEPE;
}

/* A byte cut short may read as anything: old, new, erased, or a mixture. */
static uint8_t eeprom_torn_value(uint8_t value)
{
	switch (torn_how) {
	case TORN_OLD:
		return busy_old;
	case TORN_NEW:
		return value;
	case TORN_ERASED:
		return 0xff;
	case TORN_RANDOM:
		break;
	default:
		return (uint8_t)torn_how;
	}
	switch (chip_random() % 4) {
	case 0:
		return busy_old;
	case 1:
		return value;
	case 2:
		return 0xff;
	}
	return value | (uint8_t)chip_random();	/* erased, and not all of it programmed */
}

void eeprom_power_off(void)
{
	uint8_t value, got;

	enabled_at = NEVER;
	if (busy_until == NEVER)
		return;
	busy_until = NEVER;
	value = cells[busy_addr];
	got = fails ? busy_old : eeprom_torn_value(value);
	eeprom_set(busy_addr, got);
	log_event("\"ev\":\"torn\",\"addr\":%u,\"old\":%u,\"new\":%u,\"got\":%u", busy_addr, busy_old, value, got);
}

static void eeprom_open(const char *file)
{
	ssize_t n;

	fd = open(file, O_RDWR | O_CREAT, 0600);
	if (fd < 0)
		log_fatal("cannot open the EEPROM file %s", file);
	n = pread(fd, shadow, EE_SIZE, 0);
	if (n < 0 || (n < EE_SIZE && pwrite(fd, shadow, EE_SIZE, 0) != EE_SIZE))
		log_fatal("cannot fill the EEPROM file %s", file);
}

void eeprom_init(const char *file)
{
	avr_eeprom_desc_t whole = { .ee = shadow, .offset = 0, .size = EE_SIZE };
	avr_eeprom_desc_t where = { .ee = NULL, .offset = 0, .size = EE_SIZE };

	memset(shadow, 0xff, sizeof shadow);
	if (file != NULL)
		eeprom_open(file);
	avr_ioctl(chip_avr(), AVR_IOCTL_EEPROM_SET, &whole);
	avr_ioctl(chip_avr(), AVR_IOCTL_EEPROM_GET, &where);
	if (where.ee == NULL)
		log_fatal("this libsimavr does not show its EEPROM");
	cells = where.ee;
	avr_register_io_write(chip_avr(), REG_EECR, eeprom_on_eecr, NULL);
}
