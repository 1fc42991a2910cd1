#include "keep.h"
#include "bytes.h"
#include "crc.h"
#include "ee.h"
#include "proto.h"

#include <string.h>

/* Where they lie. Two copies of the configuration, the older one is written over;
 * a ring of checkpoints, so that no cell is written more than once in PAGES times. */
enum {
	CONFIG_AT = JOURNAL_END,
	PAGES_AT = CONFIG_AT + 2 * EE_BLOCK,
	PAGES = 16,
	TRIES = 3,	/* places for one block before EEPROM is called broken */
};

/* Places in a checkpoint and in a stored configuration. */
enum { SERIAL = 0, TURNS = 2, DROPS = 6, BOOT = 10, UPTO = 14, NOT_HOME = 16, LATCHED = 24, LATCHED_SLOT = 25 };
enum { CONFIG_SERIAL = MSG_CONFIGURE_LEN };

struct keep keep;
struct config config;

static uint8_t payload[MSG_CONFIGURE_LEN];
static bool configured;
static uint32_t hash;

/* A kind of block with its own ring of places. */
struct ring {
	uint16_t at;
	uint8_t places, place;
	uint16_t serial;
	bool dirty;
	uint8_t tries;
};

static struct ring pages, configs;
static struct ring *writing;	/* whose block EEPROM takes; NULL is none or the journal */
static bool failed;
static uint16_t upto;		/* newest journal record that the checkpoint read at boot has in it */
static uint32_t last_id;	/* of the last record accounted for, and its drops */
static uint8_t last_drops;
static struct record record;	/* on its way into the journal */

static uint16_t address(const struct ring *r, uint8_t place)
{
	return (uint16_t)(r->at + place * EE_BLOCK);
}

/* Leaves the newest block of the ring in b. */
static bool newest(struct ring *r, uint16_t at, uint8_t places, uint8_t serial_at, uint8_t *b)
{
	uint8_t one[EE_BLOCK];
	bool any = false;

	*r = (struct ring){ .at = at, .places = places, .place = (uint8_t)(places - 1) };
	for (uint8_t i = 0; i < places; i++) {
		if (!ee_load(address(r, i), one, EE_BLOCK))
			continue;
		uint16_t n = get16(one + serial_at);
		if (any && (int16_t)(n - r->serial) <= 0)
			continue;
		any = true;
		r->serial = n;
		r->place = i;
		memcpy(b, one, EE_BLOCK);
	}
	return any;
}

/* What one more record in the journal changes. */
static void account(const struct record *r)
{
	uint8_t before = r->id == last_id ? last_drops : 0;

	last_id = r->id;
	last_drops = r->drops;
	if (r->kind == REC_START)
		keep.turns++;
	if (r->drops > before)
		keep.drops += (uint8_t)(r->drops - before);
	set_put(keep.not_home, r->slot, !(r->kind == REC_END && r->home));
}

/* What the journal knows and the checkpoint does not, oldest first. */
static void fold(bool all)
{
	struct record r;
	uint16_t n;

	last_id = 0;
	for (uint8_t k = JOURNAL_RING; k-- > 0;) {
		if (!journal_at(k, &r, &n))
			continue;
		if (!all && (int16_t)(n - upto) <= 0) {
			last_id = r.id;
			last_drops = r.drops;
			continue;
		}
		account(&r);
		if (r.kind == REC_END && r.cause == FAULT_RUNAWAY) {
			keep.latched = FAULT_RUNAWAY;
			keep.latched_slot = r.slot;
		}
	}
}

static void use_config(const uint8_t *p)
{
	memcpy(payload, p, sizeof payload);
	config = (struct config){
		.leave_ms = get16(p + MSG_CONFIGURE_LEAVE_MS), .turn_ms = get16(p + MSG_CONFIGURE_TURN_MS),
		.slow_ms = get16(p + MSG_CONFIGURE_SLOW_MS), .jam_ma = get16(p + MSG_CONFIGURE_JAM_MA),
		.jam_ms = get16(p + MSG_CONFIGURE_JAM_MS), .open_ma = get16(p + MSG_CONFIGURE_OPEN_MA),
	};
	hash = crc32(p, sizeof payload);
	configured = true;
}

static void read_page(const uint8_t *b)
{
	keep.turns = get32(b + TURNS);
	keep.drops = get32(b + DROPS);
	keep.boot = get32(b + BOOT);
	upto = get16(b + UPTO);
	memcpy(keep.not_home, b + NOT_HOME, sizeof keep.not_home);
	keep.latched = b[LATCHED];
	keep.latched_slot = b[LATCHED_SLOT];
}

void keep_init(void)
{
	uint8_t b[EE_BLOCK];

	ee_init();
	journal_init();
	keep = (struct keep){ 0 };
	configured = failed = false;
	hash = 0;
	upto = 0;
	writing = NULL;
	memset(payload, 0, sizeof payload);

	bool page = newest(&pages, PAGES_AT, PAGES, SERIAL, b);
	if (page)
		read_page(b);
	if ((int16_t)(journal_serial() - upto) < 0)
		upto = journal_serial();	/* the journal lost its newest records: what comes will count */
	fold(!page);
	if (newest(&configs, CONFIG_AT, 2, CONFIG_SERIAL, b) && keep_valid(b))
		use_config(b);
	keep.boot++;
	keep_save();
}

static void write_page(uint8_t *b)
{
	put16(b + SERIAL, (uint16_t)(pages.serial + 1));
	put32(b + TURNS, keep.turns);
	put32(b + DROPS, keep.drops);
	put32(b + BOOT, keep.boot);
	put16(b + UPTO, journal_serial());
	memcpy(b + NOT_HOME, keep.not_home, sizeof keep.not_home);
	b[LATCHED] = keep.latched;
	b[LATCHED_SLOT] = keep.latched_slot;
}

static void write(struct ring *r)
{
	uint8_t b[EE_BLOCK] = { 0 };

	r->dirty = false;
	writing = r;
	if (r == &pages) {
		write_page(b);
	} else {
		memcpy(b, payload, sizeof payload);
		put16(b + CONFIG_SERIAL, (uint16_t)(configs.serial + 1));
	}
	ee_seal(b, EE_BLOCK);
	r->place = (uint8_t)(r->place + 1 == r->places ? 0 : r->place + 1);
	ee_write(address(r, r->place), b, EE_BLOCK);
}

/* The block in hand has been taken, or this place does not take it. */
static void written(struct ring *r)
{
	writing = NULL;
	if (ee_whole()) {
		r->serial++;
		r->tries = 0;
	} else if (++r->tries < TRIES) {
		r->dirty = true;
	} else {
		r->tries = 0;
		r->dirty = true;	/* for keep_retry */
		failed = true;
	}
}

void keep_poll(void)
{
	ee_poll();
	if (journal_busy()) {
		journal_poll();
		if (journal_busy())
			return;
		if (journal_failed())
			failed = true;
		else
			account(&record);
		pages.dirty = true;
		return;
	}
	if (ee_busy())
		return;
	if (writing)
		written(writing);
	if (writing || failed)
		return;
	if (configs.dirty)
		write(&configs);
	else if (pages.dirty)
		write(&pages);
}

void keep_save(void)
{
	pages.dirty = true;
}

bool keep_saved(void)
{
	return failed || (!pages.dirty && writing != &pages);
}

void keep_record(const struct record *r)
{
	if (writing) {	/* it was in nobody's way: the same place takes it later */
		writing->dirty = true;
		writing->place = (uint8_t)(writing->place ? writing->place - 1 : writing->places - 1);
		writing = NULL;
	}
	record = *r;
	journal_append(r);
}

bool keep_recorded(void)
{
	return !journal_busy();
}

bool keep_failed(void)
{
	return failed;
}

void keep_retry(void)
{
	failed = false;
}

bool keep_valid(const uint8_t *p)
{
	const uint8_t *fitted = p + MSG_CONFIGURE_FITTED, *coupled = p + MSG_CONFIGURE_COUPLED;
	uint16_t leave = get16(p + MSG_CONFIGURE_LEAVE_MS), turn = get16(p + MSG_CONFIGURE_TURN_MS);
	uint16_t jam_ms = get16(p + MSG_CONFIGURE_JAM_MS);

	if ((fitted[7] | coupled[7]) & 0xf0)	/* slots 61 to 64 */
		return false;
	for (uint8_t s = 1; s <= LIM_SLOTS; s++) {
		if (!set_has(coupled, s))
			continue;
		if (s % LIM_COLUMNS == 0 || !set_has(fitted, s) || !set_has(fitted, s + 1) || set_has(coupled, s + 1))
			return false;
	}
	return leave >= 100 && leave <= 2000 && turn >= leave + 100 && turn <= LIM_MAX_TURN_MS && jam_ms >= 10 && jam_ms <= 1000 &&
	       get16(p + MSG_CONFIGURE_JAM_MA) > get16(p + MSG_CONFIGURE_OPEN_MA);
}

void keep_configure(const uint8_t *p)
{
	if (configured && !memcmp(p, payload, sizeof payload))
		return;
	use_config(p);
	configs.dirty = true;
}

bool keep_configured(void)
{
	return configured;
}

uint32_t keep_config_hash(void)
{
	return hash;
}

const uint8_t *keep_fitted(void)
{
	return payload + MSG_CONFIGURE_FITTED;
}

bool keep_paired(uint8_t slot)
{
	return set_has(payload + MSG_CONFIGURE_COUPLED, slot);
}

bool keep_turns(uint8_t slot)
{
	return slot >= 1 && slot <= LIM_SLOTS && set_has(keep_fitted(), slot) && !(slot > 1 && keep_paired((uint8_t)(slot - 1)));
}
