/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The conversation: commands on stdin, one a line; events on stdout, one JSON
 * object a line. Every command is answered by the events since the one before
 * and then by one line with "ev":"ok" or "ev":"error", which carries what the
 * board has sent.
 *
 * Commands, SLOT being 1 to 60:
 *   run US [frame]      time passes; less of it when power is lost, or with
 *                       frame, when the board has sent a zero byte
 *   send HEX            bytes to the board
 *   load SLOT N         N pieces more
 *   faults SLOT [jam] [nomotor] [stuckhome] [runaway] [double] [short] [bounce]
 *          [hang=N] [late=US] [slow=FACTOR]    all that is wrong with the slot
 *   pair SLOT on|off    the slot and its right neighbour may turn together
 *   fall SLOT           a piece falls by itself
 *   door open|shut      dark on|off      blind on|off     silent on|off
 *   eeprom ok|fails     climate CENTIC CENTIRH | absent | badcrc
 *   power on|off|dip    reset
 *   cutwrites N         power is lost in the midst of the Nth EEPROM write; 0: not
 *   cutat US            power is lost so much later; -1: not
 *   torn VALUE|old|new|erased|random           what a byte cut short reads as
 *   hang ADDR           the instruction at this byte address loops until a reset
 *   skip ADDR           the function at this byte address returns at once, until a reset
 *   slot SLOT           evidence about one slot
 *   status              evidence about all else
 *   quit */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim.h"

enum {
	COMMAND_LEN = 1 << 14,	/* the longest command: 8,000 bytes to the board */
	WORDS = 16,
	STALL_SECONDS = 120,	/* the longest run is a few seconds of work; more is a fault of ours */
};

static bool over;

struct command {
	const char *name;
	int words;	/* at least, without the name */
	const char *(*run)(int n, char **w);	/* returns what is wrong, or NULL */
};

static bool word_number(const char *w, long long min, long long max, long long *v)
{
	char *end;

	errno = 0;
	*v = strtoll(w, &end, 10);
	return errno == 0 && end != w && *end == 0 && *v >= min && *v <= max;
}

static int word_slot(const char *w)
{
	long long v;

	return word_number(w, 1, SLOTS, &v) ? (int)v : 0;
}

/* word_one tells which of two words w is: 1 for yes, 0 for no, -1 for neither. */
static int word_one(const char *w, const char *yes, const char *no)
{
	return strcmp(w, yes) == 0 ? 1 : strcmp(w, no) == 0 ? 0 : -1;
}

static const char *set(const char *w, const char *yes, const char *no, void (*f)(bool))
{
	int v = word_one(w, yes, no);

	if (v < 0)
		return "neither the one word nor the other";
	f(v);
	return NULL;
}

static const char *do_run(int n, char **w)
{
	long long us;

	if (!word_number(w[0], 0, 3600ll * 1000 * 1000, &us))
		return "microseconds, up to an hour";
	chip_run((uint64_t)us * CYC_US, n > 1 && strcmp(w[1], "frame") == 0);
	return NULL;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static const char *do_send(int n, char **w)
{
	uint8_t buf[COMMAND_LEN / 2];
	unsigned len = 0;

	(void)n;
	for (const char *h = w[0]; *h; h += 2) {
		int hi = hex_digit(h[0]), lo = hi < 0 ? -1 : hex_digit(h[1]);

		if (lo < 0)
			return "bytes as pairs of 0-9a-f";
		buf[len++] = (uint8_t)(hi << 4 | lo);
	}
	line_send(buf, len);
	return NULL;
}

static const char *do_load(int n, char **w)
{
	long long pieces;
	int slot = word_slot(w[0]);

	(void)n;
	if (slot == 0 || !word_number(w[1], 0, 10000, &pieces))
		return "a slot and a number of pieces";
	cabinet_load(slot, (int)pieces);
	return NULL;
}

static const char *fault_value(struct faults *f, const char *name, const char *value)
{
	long long v;

	if (strcmp(name, "slow") == 0) {
		f->slow = strtod(value, NULL);
		return f->slow >= 0.1 && f->slow <= 100 ? NULL : "slow is 0.1 to 100";
	}
	if (!word_number(value, 0, 60ll * 1000 * 1000, &v))
		return "a number, up to a minute in microseconds";
	if (strcmp(name, "hang") == 0)
		f->hang = (unsigned)v;
	else if (strcmp(name, "late") == 0)
		f->late = (uint64_t)v * CYC_US;
	else
		return "no such fault with a value";
	return NULL;
}

static const char *fault_flag(struct faults *f, const char *name)
{
	const struct { const char *name; bool *flag; } flags[] = {
		{ "jam", &f->jam }, { "nomotor", &f->nomotor }, { "stuckhome", &f->stuckhome }, { "runaway", &f->runaway },
		{ "double", &f->twice }, { "short", &f->shorted }, { "bounce", &f->bounce },
	};

	for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
		if (strcmp(name, flags[i].name) != 0)
			continue;
		*flags[i].flag = true;
		return NULL;
	}
	return "no such fault";
}

static const char *do_faults(int n, char **w)
{
	struct faults f = { 0 };
	int slot = word_slot(w[0]);
	const char *wrong = slot == 0 ? "no such slot" : NULL;

	for (int i = 1; i < n && wrong == NULL; i++) {
		char *value = strchr(w[i], '=');

		if (value != NULL)
			*value++ = 0;
		wrong = value != NULL ? fault_value(&f, w[i], value) : fault_flag(&f, w[i]);
	}
	if (wrong == NULL)
		cabinet_faults(slot, &f);
	return wrong;
}

static const char *do_pair(int n, char **w)
{
	int slot = word_slot(w[0]), on = word_one(w[1], "on", "off");

	(void)n;
	if (slot % COLS == 0 || on < 0)
		return "a slot with a right neighbour, and on or off";
	cabinet_pair(slot, on);
	return NULL;
}

static const char *do_fall(int n, char **w)
{
	int slot = word_slot(w[0]);

	(void)n;
	if (slot == 0)
		return "no such slot";
	cabinet_fall(slot);
	return NULL;
}

static const char *do_door(int n, char **w) { (void)n; return set(w[0], "open", "shut", cabinet_door); }
static const char *do_dark(int n, char **w) { (void)n; return set(w[0], "on", "off", cabinet_dark); }
static const char *do_blind(int n, char **w) { (void)n; return set(w[0], "on", "off", cabinet_blind); }
static const char *do_silent(int n, char **w) { (void)n; return set(w[0], "on", "off", line_silent); }
static const char *do_eeprom(int n, char **w) { (void)n; return set(w[0], "fails", "ok", eeprom_fails); }

static const char *do_climate(int n, char **w)
{
	long long c, rh;

	if (strcmp(w[0], "absent") == 0) {
		climate_set(false, 0, 0, false);
		return NULL;
	}
	if (strcmp(w[0], "badcrc") == 0) {
		climate_set(true, 2150, 4500, true);
		return NULL;
	}
	if (n < 2 || !word_number(w[0], -4500, 13000, &c) || !word_number(w[1], 0, 10000, &rh))
		return "hundredths of a degree and of a percent, or absent, or badcrc";
	climate_set(true, (int)c, (unsigned)rh, false);
	return NULL;
}

static void power(bool on)
{
	if (on)
		chip_power_on();
	else
		chip_power_off();
}

static const char *do_power(int n, char **w)
{
	(void)n;
	if (strcmp(w[0], "dip") != 0)
		return set(w[0], "on", "off", power);
	chip_brown_out();
	return NULL;
}

static const char *do_reset(int n, char **w)
{
	(void)n, (void)w;
	chip_reset();
	return NULL;
}

static const char *do_cutwrites(int n, char **w)
{
	long long v;

	(void)n;
	if (!word_number(w[0], 0, 1000000, &v))
		return "a number of writes";
	eeprom_cut_after((unsigned)v);
	return NULL;
}

static const char *do_cutat(int n, char **w)
{
	long long us;

	(void)n;
	if (!word_number(w[0], -1, 3600ll * 1000 * 1000, &us))
		return "microseconds, up to an hour, or -1";
	chip_cut_at(us < 0 ? NEVER : chip_now() + (uint64_t)us * CYC_US);
	return NULL;
}

static const char *do_torn(int n, char **w)
{
	static const struct { const char *name; int how; } hows[] = {
		{ "random", TORN_RANDOM }, { "old", TORN_OLD }, { "new", TORN_NEW }, { "erased", TORN_ERASED },
	};
	long long v;

	(void)n;
	for (unsigned i = 0; i < sizeof hows / sizeof *hows; i++) {
		if (strcmp(w[0], hows[i].name) != 0)
			continue;
		eeprom_torn(hows[i].how);
		return NULL;
	}
	if (!word_number(w[0], 0, 255, &v))
		return "a value of 0 to 255, or old, new, erased, random";
	eeprom_torn((int)v);
	return NULL;
}

static const char *do_patch(const char *addr, uint16_t instruction)
{
	long long at;

	if (!word_number(addr, 0, 1 << 18, &at) || !chip_patch((uint32_t)at, instruction))
		return "an even byte address in flash";
	return NULL;
}

static const char *do_hang(int n, char **w)
{
	(void)n;
	return do_patch(w[0], RJMP_SELF);
}

static const char *do_skip(int n, char **w)
{
	(void)n;
	return do_patch(w[0], RET);
}

static const char *do_slot(int n, char **w)
{
	int slot = word_slot(w[0]);
	struct slot_facts f;

	(void)n;
	if (slot == 0)
		return "no such slot";
	f = cabinet_slot(slot);
	log_event("\"ev\":\"slot\",\"slot\":%d,\"starts\":%u,\"turns\":%u,\"pieces\":%d,\"fallen\":%u,\"part\":%.6f",
		slot, f.starts, f.turns, f.pieces, f.fallen, f.part);
	return NULL;
}

static const char *do_status(int n, char **w)
{
	(void)n, (void)w;
	log_event("\"ev\":\"status\",\"eeprom_writes\":%u,\"resets\":%u,\"line_drops\":%u,\"stack_free\":%u,\"light\":%u,\"emitter\":%s",
		eeprom_writes(), chip_resets(), line_drops(), chip_ram_free(), cabinet_light(), cabinet_emitter() ? "true" : "false");
	return NULL;
}

static const char *do_quit(int n, char **w)
{
	(void)n, (void)w;
	over = true;
	return NULL;
}

static const struct command commands[] = {
	{ "run", 1, do_run }, { "send", 1, do_send }, { "load", 2, do_load }, { "faults", 1, do_faults },
	{ "pair", 2, do_pair }, { "fall", 1, do_fall }, { "door", 1, do_door }, { "dark", 1, do_dark },
	{ "blind", 1, do_blind }, { "silent", 1, do_silent }, { "eeprom", 1, do_eeprom }, { "climate", 1, do_climate },
	{ "power", 1, do_power }, { "reset", 0, do_reset }, { "cutwrites", 1, do_cutwrites }, { "cutat", 1, do_cutat },
	{ "torn", 1, do_torn }, { "hang", 1, do_hang }, { "skip", 1, do_skip }, { "slot", 1, do_slot }, { "status", 0, do_status }, { "quit", 0, do_quit },
};

static const char *command_run(int n, char **w)
{
	for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
		if (strcmp(w[0], commands[i].name) != 0)
			continue;
		return n - 1 < commands[i].words ? "too few words" : commands[i].run(n - 1, w + 1);
	}
	return "no such command";
}

static void command_answer(const char *wrong)
{
	static const char digits[] = "0123456789abcdef";
	char hex[2 * LINE_TAKE + 1];
	const uint8_t *p;
	unsigned n = line_take(&p);

	for (unsigned i = 0; i < n; i++) {
		hex[2 * i] = digits[p[i] >> 4];
		hex[2 * i + 1] = digits[p[i] & 15];
	}
	hex[2 * n] = 0;
	log_event("\"ev\":\"%s\",\"why\":\"%s\",\"on\":%s,\"out\":\"%s\"", wrong != NULL ? "error" : "ok",
		wrong != NULL ? wrong : "", chip_powered() ? "true" : "false", hex);
}

static void command(char *line)
{
	char *w[WORDS], *rest = line, *word;
	int n = 0;

	while (n < WORDS && (word = strtok_r(rest, " \t\r", &rest)) != NULL)
		w[n++] = word;
	if (n == 0)
		return;
	alarm(STALL_SECONDS);
	command_answer(command_run(n, w));
	alarm(0);
}

/* commands_read takes what is on stdin, and answers all of it in one write. */
void commands_read(void)
{
	static char buf[COMMAND_LEN];
	static size_t have;
	ssize_t r = read(STDIN_FILENO, buf + have, sizeof buf - have);
	char *nl, *p = buf;

	if (r < 0 && errno == EINTR)
		return;
	if (r <= 0)
		exit(0);	/* our owner is gone */
	have += (size_t)r;
	while (!over && (nl = memchr(p, '\n', have)) != NULL) {
		*nl = 0;
		have -= (size_t)(nl + 1 - p);
		command(p);
		p = nl + 1;
	}
	memmove(buf, p, have);
	if (have == sizeof buf)
		log_fatal("a command of more than %d bytes", COMMAND_LEN);
	log_flush();
}

bool commands_over(void) { return over; }

void commands_begin(void)
{
	command_answer(NULL);
	log_flush();
}
