/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What hangs on the board's pins, which avr/pins.h names. */
#include <stdio.h>
#include <string.h>

#include <simavr/avr_adc.h>
#include <simavr/avr_ioport.h>

#include "sim.h"
#include "spiral.h"

/* The fall. */
#define FALL_CYCLES  (120ull * CYC_MS)	/* from the tray's edge to the drop sensor */
#define DARK_CYCLES  (12ull * CYC_MS)	/* a piece passes the sensor */

/* The input for the current ends at 5 V, which is 5 A. */
enum { MA_MAX = 5000 };

/* The longest that the lock may have power, whatever the firmware does:
 * LIM_MAX_LOCK_MS of core/proto.h, and a few ticks. */
#define LOCK_MAX (10005ull * CYC_MS)

/* A piece in the air, or passing the sensor. */
struct fall { uint64_t at; int slot; bool counted; };
enum { FALLS = 64 };	/* far more than fall in the 172 ms of a fall */

/* What the chip drives: PORT where DDR says output. */
enum { PORT_A, PORT_B, PORT_C, PORT_E, PORT_G, PORT_H, PORT_L, PORTS_OUT };
static const char port_names[PORTS_OUT] = { 'A', 'B', 'C', 'E', 'G', 'H', 'L' };
static struct port { uint8_t out, dir; avr_irq_t *irq; } ports[PORTS_OUT];

/* What the cabinet drives. */
static struct input { char name; avr_ioport_t *port; avr_irq_t *irq; } in_k = { .name = 'K' }, in_j = { .name = 'J' },
	in_e = { .name = 'E' }, in_d = { .name = 'D' };
static avr_irq_t *current_in;
static unsigned current_ma;

static struct spiral spirals[SLOTS];	/* slot 1 is 0 */
static struct fall falls[FALLS];
static unsigned falls_n;
static bool door_open, dark, blind, lock_on, emitter_on, two_on;
static uint64_t lock_since;
static bool lock_overlong;

static uint8_t port_driven(int p) { return ports[p].out & ports[p].dir; }

void cabinet_let_go(int slot, uint64_t at)
{
	if (falls_n == FALLS) {
		log_event("\"ev\":\"FAULT\",\"why\":\"more pieces fall than this program has room for\"");
		return;
	}
	falls[falls_n++] = (struct fall){ .at = at + FALL_CYCLES, .slot = slot };
}

/* ---- pins into the chip ---- */

/* An input is set in two places: simavr forgets what was driven from outside when
 * the firmware writes the port with its pull-ups, and looks at external then. */
static void input_drive(struct input *in, uint8_t mask, uint8_t value)
{
	uint8_t was = in->port->external.pull_value;
	uint8_t is = (uint8_t)((was & ~mask) | (value & mask));

	in->port->external.pull_mask |= mask;
	in->port->external.pull_value = is;
	for (int i = 0; i < 8; i++)
		if (mask >> i & 1)
			avr_raise_irq(in->irq + i, is >> i & 1);
}

static void cabinet_drive_homes(uint64_t now)
{
	uint8_t strobed = (uint8_t)(~ports[PORT_L].out & ports[PORT_L].dir);
	uint16_t closed = 0;

	for (int row = 0; row < ROWS; row++)
		for (int col = 0; strobed >> row & 1 && col < COLS; col++)
			closed |= (uint16_t)(spiral_closed(&spirals[row * COLS + col], now) << col);
	input_drive(&in_k, 0xff, (uint8_t)~closed);
	input_drive(&in_j, 0x03, (uint8_t)(~closed >> 8));
}

static bool cabinet_sensor_dark(uint64_t now)
{
	if (blind)
		return false;
	if (dark || !emitter_on)
		return true;
	for (unsigned i = 0; i < falls_n; i++)
		if (falls[i].at <= now)
			return true;
	return false;
}

static void cabinet_drive_current(uint64_t now)
{
	unsigned ma = 0;

	for (int i = 0; i < SLOTS; i++)
		if (spirals[i].on)
			ma += spiral_current(&spirals[i], now);
	ma = ma < MA_MAX ? ma : MA_MAX;
	if (ma != current_ma)
		avr_raise_irq(current_in, ma);
	current_ma = ma;
}

static void cabinet_drive(uint64_t now)
{
	if (!chip_powered())
		return;
	cabinet_drive_homes(now);
	input_drive(&in_e, 0x30, (uint8_t)(cabinet_sensor_dark(now) << 4 | door_open << 5));
	input_drive(&in_d, 0x03, 0x03);	/* pull-ups of the I2C bus */
	cabinet_drive_current(now);
}

/* ---- pins out of the chip ---- */

static bool cabinet_powered_slot(int i)
{
	uint16_t cols = (uint16_t)(port_driven(PORT_C) | (port_driven(PORT_G) & 3) << 8);

	return port_driven(PORT_B) & 0x40 && port_driven(PORT_A) >> i / COLS & 1 && cols >> i % COLS & 1;
}

/* Two motors at once draw what the supply may not have, and move what nobody asked for. */
static void cabinet_judge_motors(void)
{
	int first = -1, n = 0;

	for (int i = 0; i < SLOTS; i++)
		if (spirals[i].on && n++ == 0)
			first = i;
	if (n > 2 || (n == 2 && !(spirals[first].paired && spirals[first + 1].on))) {
		if (!two_on)
			log_event("\"ev\":\"FAULT\",\"why\":\"%d motors have power, and are no pair\"", n);
		two_on = true;
	} else {
		two_on = false;
	}
}

static void cabinet_motors(uint64_t now)
{
	bool changed = false;

	for (int i = 0; i < SLOTS; i++) {
		struct spiral *s = &spirals[i];
		bool on = cabinet_powered_slot(i);

		if (on == s->on)
			continue;
		changed = true;
		if (on)
			spiral_start(s, now);
		else
			spiral_stop(s, now);
	}
	if (changed)
		cabinet_judge_motors();
}

static void cabinet_lock(uint64_t now)
{
	bool on = port_driven(PORT_H) & 0x10;

	if (on == lock_on)
		return;
	lock_on = on;
	if (on) {
		lock_since = now;
		lock_overlong = false;
		log_event("\"ev\":\"lock\",\"on\":true");
		return;
	}
	log_event("\"ev\":\"lock\",\"on\":false,\"us\":%llu", (unsigned long long)(now / CYC_US - lock_since / CYC_US));
}

static void cabinet_emitter_pin(void)
{
	bool on = port_driven(PORT_H) & 0x08;

	if (on == emitter_on)
		return;
	emitter_on = on;
	log_event("\"ev\":\"emitter\",\"on\":%s", on ? "true" : "false");
}

static void cabinet_pins_changed(void)
{
	uint64_t now = chip_now();

	cabinet_motors(now);
	cabinet_lock(now);
	cabinet_emitter_pin();
	cabinet_drive(now);
	chip_changed();
}

static void cabinet_on_port(avr_irq_t *irq, uint32_t v, void *param)
{
	struct port *p = param;

	(void)irq;
	p->out = (uint8_t)v;
	cabinet_pins_changed();
}

static void cabinet_on_ddr(avr_irq_t *irq, uint32_t v, void *param)
{
	struct port *p = param;

	(void)irq;
	p->dir = (uint8_t)v;
	cabinet_pins_changed();
}

/* ---- time ---- */

static void cabinet_falls(uint64_t now)
{
	unsigned keep = 0;

	for (unsigned i = 0; i < falls_n; i++) {
		struct fall *f = &falls[i];

		if (f->at <= now && !f->counted) {
			f->counted = true;
			spirals[f->slot - 1].fallen++;
			log_event("\"ev\":\"fell\",\"slot\":%d", f->slot);
		}
		if (f->at + DARK_CYCLES > now)
			falls[keep++] = *f;
	}
	falls_n = keep;
}

static void cabinet_lock_overlong(uint64_t now)
{
	if (!lock_on || lock_overlong || now < lock_since + LOCK_MAX)
		return;
	lock_overlong = true;
	log_event("\"ev\":\"FAULT\",\"why\":\"the lock has power for more than 10 s\"");
}

uint64_t cabinet_next(void)
{
	uint64_t next = lock_on && !lock_overlong ? lock_since + LOCK_MAX : NEVER;

	for (int i = 0; i < SLOTS; i++)
		next = earlier(next, spiral_next(&spirals[i]));
	for (unsigned i = 0; i < falls_n; i++)
		next = earlier(next, falls[i].counted ? falls[i].at + DARK_CYCLES : falls[i].at);
	return next;
}

void cabinet_step(uint64_t now)
{
	if (now < cabinet_next())
		return;
	for (int i = 0; i < SLOTS; i++)
		spiral_follow(&spirals[i], now);
	cabinet_falls(now);
	cabinet_lock_overlong(now);
	cabinet_drive(now);
}

/* Without power, and in a reset, every pin floats, and the pull-downs hold the
 * outputs low. simavr tells nobody: ports are cleared behind their irqs, which
 * are filtered on change, so each must be told that it has never been raised. */
void cabinet_reset(void)
{
	struct input *ins[] = { &in_k, &in_j, &in_e, &in_d };

	for (int p = 0; p < PORTS_OUT; p++) {
		ports[p].out = ports[p].dir = 0;
		for (int i = 0; i < IOPORT_IRQ_COUNT; i++)
			ports[p].irq[i].flags |= IRQ_FLAG_INIT;
	}
	for (unsigned n = 0; n < sizeof ins / sizeof *ins; n++)
		for (int i = 0; i < IOPORT_IRQ_COUNT; i++)
			ins[n]->irq[i].flags |= IRQ_FLAG_INIT;
	current_ma = MA_MAX + 1;	/* told anew */
	cabinet_pins_changed();
}

/* ---- what a test changes ---- */

static void cabinet_changed(void)
{
	cabinet_drive(chip_now());
	chip_changed();
}

void cabinet_load(int slot, int n) { spirals[slot - 1].pieces += n; }
void cabinet_pair(int left, bool paired) { spirals[left - 1].paired = paired; }

void cabinet_faults(int slot, const struct faults *f)
{
	spiral_set_faults(&spirals[slot - 1], f, chip_now());
	cabinet_changed();
}

void cabinet_fall(int slot)
{
	if (spirals[slot - 1].pieces == 0)
		return;
	spirals[slot - 1].pieces--;
	cabinet_let_go(slot, chip_now());
	cabinet_changed();
}

void cabinet_door(bool open)
{
	door_open = open;
	cabinet_changed();
}

void cabinet_dark(bool d)
{
	dark = d;
	cabinet_changed();
}

void cabinet_blind(bool b)
{
	blind = b;
	cabinet_changed();
}

/* ---- evidence ---- */

struct slot_facts cabinet_slot(int slot)
{
	const struct spiral *s = &spirals[slot - 1];

	return (struct slot_facts){
		.starts = s->starts, .turns = s->turns, .fallen = s->fallen, .pieces = s->pieces,
		.part = spiral_part(s, chip_now()),
	};
}

bool cabinet_emitter(void) { return emitter_on; }

/* cabinet_light reads timer 3, which drives the light at OC3A. */
unsigned cabinet_light(void)
{
	enum { TCCR3A = 0x90, TCCR3B = 0x91, ICR3 = 0x96, OCR3A = 0x98, PE3 = 0x08 };
	const uint8_t *r = chip_avr()->data;
	unsigned com = r[TCCR3A] >> 6, wgm = (r[TCCR3A] & 3u) | (r[TCCR3B] >> 1 & 12u);
	unsigned on = r[OCR3A] | r[OCR3A + 1] << 8, top;

	if (!chip_powered() || !(ports[PORT_E].dir & PE3))
		return 0;
	if (com < 2 || (r[TCCR3B] & 7) == 0)
		return ports[PORT_E].out & PE3 ? 100 : 0;
	switch (wgm) {
	case 1: case 5:
		top = 0xff;
		break;
	case 2: case 6:
		top = 0x1ff;
		break;
	case 3: case 7:
		top = 0x3ff;
		break;
	case 8: case 10: case 14:
		top = r[ICR3] | r[ICR3 + 1] << 8;
		break;
	default:
		return 0;	/* no mode that makes a light of any brightness */
	}
	if (wgm >= 5 && wgm != 8 && wgm != 10) {	/* fast: from 0 to the compare value, both counted */
		on++;
		top++;
	}
	on = on < top ? on : top;
	if (com == 3)
		on = top - on;
	return top == 0 ? 0 : (on * 100 + top / 2) / top;
}

static void input_find(struct input *in)
{
	for (avr_io_t *io = chip_avr()->io_port; io != NULL; io = io->next)
		if (strcmp(io->kind, "port") == 0 && ((avr_ioport_t *)io)->name == in->name)
			in->port = (avr_ioport_t *)io;
	if (in->port == NULL)
		log_fatal("this libsimavr has no port %c", in->name);
	in->irq = avr_io_getirq(chip_avr(), AVR_IOCTL_IOPORT_GETIRQ(in->name), 0);
}

void cabinet_init(void)
{
	for (int i = 0; i < SLOTS; i++)
		spiral_init(&spirals[i], i + 1);
	input_find(&in_k);
	input_find(&in_j);
	input_find(&in_e);
	input_find(&in_d);
	current_in = avr_io_getirq(chip_avr(), AVR_IOCTL_ADC_GETIRQ, ADC_IRQ_ADC0);
	for (int p = 0; p < PORTS_OUT; p++) {
		avr_irq_t *irq = avr_io_getirq(chip_avr(), AVR_IOCTL_IOPORT_GETIRQ(port_names[p]), 0);

		if (irq == NULL)
			log_fatal("this libsimavr has no port %c", port_names[p]);
		ports[p].irq = irq;
		avr_irq_register_notify(irq + IOPORT_IRQ_REG_PORT, cabinet_on_port, &ports[p]);
		avr_irq_register_notify(irq + IOPORT_IRQ_DIRECTION_ALL, cabinet_on_ddr, &ports[p]);
	}
}
