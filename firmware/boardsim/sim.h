/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * boardsim runs the motor board's firmware in libsimavr, with the cabinet around it.
 * This program links libsimavr and is licensed as libsimavr is. It is a test
 * host: nothing of it is part of what is shipped.
 *
 * One clock rules all: the chip's cycles, which go on while the chip has no
 * power. Every part says when it has something to do next (part_next) and is
 * told when that time has come (part_step). Nothing is polled, so a sleeping chip
 * in a quiet cabinet costs next to nothing. */
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stdint.h>

#include <simavr/sim_avr.h>

enum { SIM_HZ = 16000000, CYC_US = SIM_HZ / 1000000, CYC_MS = SIM_HZ / 1000 };
#define NEVER UINT64_MAX

enum { ROWS = 6, COLS = 10, SLOTS = ROWS * COLS };

static inline uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* chip.c: the chip, its power and its resets, and the clock. */
struct chip_options {
	const char *elf;
	const char *eeprom;	/* file; NULL is none */
	uint64_t serial;	/* written into flash; 0 leaves it unset */
	uint32_t seed;
};
void chip_init(const struct chip_options *o);	/* ends with power on */
avr_t *chip_avr(void);
uint64_t chip_now(void);
bool chip_powered(void);
void chip_changed(void);	/* a part has something to do earlier, or later, than it said */
void chip_run(uint64_t cycles, bool to_frame);	/* ends early when power is lost; to_frame: or after a zero byte to the host */
void chip_power_on(void);
void chip_power_off(void);
void chip_brown_out(void);	/* the supply dips, and the chip knows */
void chip_reset(void);		/* by the reset line */
void chip_cut_soon(void);	/* power is lost before the next instruction */
void chip_cut_at(uint64_t when);	/* NEVER takes it back */
enum { RJMP_SELF = 0xcfff, RET = 0x9508 };
bool chip_patch(uint32_t addr, uint16_t instruction);	/* it stands at this byte address until the next reset */
unsigned chip_resets(void);
unsigned chip_ram_free(void);	/* bytes: the longest stretch of RAM not touched since power on */
uint32_t chip_random(void);

/* flash.c: what is in flash. Both end the program if the ELF is not what it should be. */
void flash_load(avr_t *avr, const char *elf);
void flash_set_serial(avr_t *avr, uint64_t serial);

/* eeprom.c: bytes that take 3.4 ms, and a file behind them. */
enum { TORN_RANDOM = -1, TORN_OLD = -2, TORN_NEW = -3, TORN_ERASED = -4 };	/* else 0 to 255: that value */
void eeprom_init(const char *file);
void eeprom_power_off(void);	/* a byte that is being written is torn */
void eeprom_reset(void);	/* the chip's registers are clear; a write goes on */
uint64_t eeprom_next(void);
void eeprom_step(uint64_t now);
void eeprom_torn(int how);
void eeprom_fails(bool fails);	/* cells keep what they hold */
void eeprom_cut_after(unsigned writes);	/* power is lost in the midst of that write, 1 is the next; 0 takes it back */
unsigned eeprom_writes(void);

/* line.c: the serial line, at the pace of its bits. */
enum { LINE_TAKE = 4096 };	/* bytes between two line_take: 350 ms of the line */
void line_init(void);
void line_power_off(void);
void line_reset(void);
uint64_t line_next(void);
void line_step(uint64_t now);
void line_send(const uint8_t *p, unsigned n);	/* host to board */
unsigned line_take(const uint8_t **p);	/* board to host since the last call */
bool line_frame_end(void);	/* a zero byte is among what line_take would give */
void line_silent(bool silent);
unsigned line_drops(void);	/* bytes the chip was too slow to take */

/* cabinet.c: motors, switches, drop sensor, door, lock and light. */
struct faults {
	bool jam, nomotor, stuckhome, runaway, twice, shorted, bounce;
	unsigned hang;		/* this many turns push nothing out */
	uint64_t late;		/* cycles */
	double slow;		/* 0 is 1 */
};
struct slot_facts { unsigned starts, turns, fallen; int pieces; double part; };	/* part of a turn from home */
void cabinet_init(void);
void cabinet_reset(void);	/* all pins of the chip float */
uint64_t cabinet_next(void);
void cabinet_step(uint64_t now);
void cabinet_load(int slot, int n);
void cabinet_faults(int slot, const struct faults *f);
void cabinet_pair(int left, bool paired);
void cabinet_fall(int slot);	/* one piece, by itself */
void cabinet_door(bool open);
void cabinet_dark(bool dark);
void cabinet_blind(bool blind);
struct slot_facts cabinet_slot(int slot);
unsigned cabinet_light(void);	/* percent */
bool cabinet_emitter(void);

/* climate.c: an SHT3x at 0x44. */
void climate_init(void);
void climate_reset(void);
void climate_set(bool present, int centi_c, unsigned centi_rh, bool bad_crc);

/* commands.c: the conversation on stdin and stdout. */
void commands_begin(void);	/* answers the start as if it had been a command */
void commands_read(void);	/* waits for commands and answers them */
bool commands_over(void);	/* quit was said */

/* log.c: events, one JSON object a line. They are kept until log_flush, and only so many. */
void log_event(const char *fmt, ...) __attribute__((format(printf, 1, 2)));	/* fmt is the object's inside, without the time */
void log_flush(void);
void log_fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
