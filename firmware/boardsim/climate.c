/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An SHT3x at 0x44: single measurements without clock stretching, as the board
 * uses it. A measurement takes its time and is read once. */
#include <math.h>
#include <stddef.h>

#include <simavr/avr_twi.h>

#include "sim.h"

enum { SHT_ADDR = 0x44, SHT_BYTES = 6 };
#define SHT_MEASURE (15ull * CYC_MS)	/* high repeatability */

static avr_irq_t *bus_in;
static bool present, bad_crc;
static int centi_c;
static unsigned centi_rh;

static bool addressed, reading;
static uint16_t command;
static uint8_t got, sent, answer[SHT_BYTES];
static uint64_t ready_at = NEVER;	/* of a measurement nobody has read */

static uint8_t sht_crc(const uint8_t *p)
{
	uint8_t crc = 0xff;

	for (int i = 0; i < 2; i++) {
		crc ^= p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = (uint8_t)(crc & 0x80 ? crc << 1 ^ 0x31 : crc << 1);
	}
	return crc;
}

static void sht_word(uint8_t *p, double parts)	/* of the full scale, 0 to 1 */
{
	uint16_t v = (uint16_t)lround((parts < 0 ? 0 : parts > 1 ? 1 : parts) * 65535);

	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	p[2] = (uint8_t)(sht_crc(p) ^ (bad_crc ? 0x01 : 0));
}

static void sht_command(void)
{
	switch (command) {
	case 0x2400: case 0x240b: case 0x2416:
		ready_at = chip_now() + SHT_MEASURE;
		sht_word(answer, (centi_c / 100.0 + 45) / 175);
		sht_word(answer + 3, centi_rh / 100.0 / 100);
		break;
	case 0x30a2:	/* soft reset */
		ready_at = NEVER;
		break;
	}
}

static void bus_say(uint8_t what, uint8_t addr, uint8_t data)
{
	avr_raise_irq(bus_in, avr_twi_irq_msg(what, addr, data));
}

static void sht_start(uint8_t addr)
{
	addressed = present && addr >> 1 == SHT_ADDR;
	reading = addr & 1;
	got = sent = 0;
	if (reading && chip_now() < ready_at)
		addressed = false;	/* nothing to read yet, or at all */
	if (addressed)
		bus_say(TWI_COND_ACK, addr, 1);
}

static void sht_write(uint8_t addr, uint8_t data)
{
	command = (uint16_t)(command << 8 | data);
	if (++got == 2)
		sht_command();
	bus_say(TWI_COND_ACK, addr, 1);
}

static void sht_read(uint8_t addr)
{
	bus_say(TWI_COND_READ, addr, sent < SHT_BYTES ? answer[sent] : 0xff);
	sent++;
	ready_at = NEVER;
}

static void climate_on_bus(avr_irq_t *irq, uint32_t v, void *param)
{
	avr_twi_msg_irq_t m = { .u.v = v };

	(void)irq, (void)param;
	if (m.u.twi.msg & TWI_COND_STOP)
		addressed = false;
	if (m.u.twi.msg & TWI_COND_START)
		sht_start(m.u.twi.addr);
	if (!addressed)
		return;
	if (m.u.twi.msg & TWI_COND_WRITE)
		sht_write(m.u.twi.addr, m.u.twi.data);
	if (m.u.twi.msg & TWI_COND_READ)
		sht_read(m.u.twi.addr);
}

void climate_set(bool is_present, int c, unsigned rh, bool bad)
{
	present = is_present;
	centi_c = c;
	centi_rh = rh;
	bad_crc = bad;
}

void climate_reset(void) { addressed = false; }

void climate_init(void)
{
	bus_in = avr_io_getirq(chip_avr(), AVR_IOCTL_TWI_GETIRQ(0), TWI_IRQ_INPUT);
	if (bus_in == NULL)
		log_fatal("this libsimavr has no I2C");
	avr_irq_register_notify(avr_io_getirq(chip_avr(), AVR_IOCTL_TWI_GETIRQ(0), TWI_IRQ_OUTPUT), climate_on_bus, NULL);
	climate_set(true, 2150, 4500, false);
}
