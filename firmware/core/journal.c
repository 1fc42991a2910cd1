#include "journal.h"
#include "bytes.h"
#include "ee.h"
#include "hal.h"
#include "proto.h"

/* Places in a record. */
enum { SERIAL = 0, KIND = 2, SLOT = 3, ID = 4, CAUSE = 8, DROPS = 9, RUN = 10, DROP = 12 };

enum { HOME = 0x80, PLACES = 3 };

static bool any;		/* there is a record */
static uint8_t head;		/* place of the newest */
static uint16_t newest;		/* its serial */
static uint32_t highest;
static uint8_t chain;		/* so many places back from the newest no serial is missing */

static struct record next;	/* being appended */
static uint8_t place, places;	/* where, and how many were tried */
static bool busy, failed;

static uint16_t address(uint8_t at)
{
	return (uint16_t)(JOURNAL_AT + at * JOURNAL_REC);
}

static bool load(uint8_t at, struct record *r, uint16_t *serial)
{
	uint8_t b[JOURNAL_REC];

	if (!ee_load(address(at), b, JOURNAL_REC))
		return false;
	*serial = get16(b + SERIAL);
	*r = (struct record){
		.id = get32(b + ID), .run_ms = get16(b + RUN), .drop_ms = get16(b + DROP),
		.kind = b[KIND] & (uint8_t)~HOME, .slot = b[SLOT], .cause = b[CAUSE], .drops = b[DROPS],
		.home = b[KIND] & HOME,
	};
	/* A checksum may be right by chance; what is used as a number must be one. */
	return r->id && r->slot >= 1 && r->slot <= LIM_SLOTS && r->kind >= REC_START && r->kind <= REC_END;
}

static uint8_t before(uint8_t at, uint8_t k)
{
	return (uint8_t)(at >= k ? at - k : at + JOURNAL_RING - k);
}

static uint8_t after(uint8_t at)
{
	return (uint8_t)(at + 1 == JOURNAL_RING ? 0 : at + 1);
}

/* How far back no serial is missing. All checksums take 15 ms: done once, at boot. */
static uint8_t count_chain(void)
{
	struct record r;
	uint16_t n;
	uint8_t k = 0;

	while (k < JOURNAL_RING && journal_at(k, &r, &n) && n == (uint16_t)(newest - k))
		k++;
	return k;
}

void journal_init(void)
{
	struct record r;
	uint16_t n;

	any = busy = failed = false;
	head = 0;
	newest = 0;
	highest = 0;
	for (uint8_t at = 0; at < JOURNAL_RING; at++) {
		if (!load(at, &r, &n))
			continue;
		if (!any || (int16_t)(n - newest) > 0) {
			newest = n;
			head = at;
		}
		if (r.id > highest)
			highest = r.id;
		any = true;
	}
	chain = count_chain();
}

uint32_t journal_highest(void)
{
	return highest;
}

uint16_t journal_serial(void)
{
	return newest;
}

bool journal_at(uint8_t k, struct record *r, uint16_t *serial)
{
	return any && load(before(head, k), r, serial);
}

static bool blank(uint8_t at)
{
	for (uint8_t i = 0; i < JOURNAL_REC; i++)
		if (hal_ee_read((uint16_t)(address(at) + i)) != 0xff)
			return false;
	return true;
}

/* What stands there as an id; for those of the chain, and to look before reading all. */
static uint32_t id_at(uint8_t at)
{
	uint8_t b[4];

	for (uint8_t i = 0; i < sizeof b; i++)
		b[i] = hal_ee_read((uint16_t)(address(at) + ID + i));
	return get32(b);
}

/* An id without a record never turned if every record is there that was written
 * since a lower id, or since the first of all. */
static bool skipped(uint32_t id)
{
	for (uint8_t k = 0; k < chain; k++) {
		if (id_at(before(head, k)) < id)
			return true;
		if (before(head, k) == 0 && (uint16_t)(newest - k) == 1)
			return blank(JOURNAL_RING - 1);
	}
	return false;
}

uint8_t journal_find(uint32_t id, struct record *r)
{
	struct record one;
	uint16_t n;
	bool begun = false;

	if (id > highest)
		return STATE_NONE;
	for (uint8_t k = 0; k < JOURNAL_RING; k++) {
		if (id_at(before(head, k)) != id || !journal_at(k, &one, &n))
			continue;
		if (one.kind == REC_END) {
			*r = one;
			return STATE_ENDED;
		}
		if (!begun || one.drops > r->drops)
			*r = one;
		begun = true;
	}
	if (begun)
		return STATE_INTERRUPTED;
	return skipped(id) ? STATE_SKIPPED : STATE_FORGOTTEN;
}

static void write(void)
{
	uint8_t b[JOURNAL_REC];

	put16(b + SERIAL, (uint16_t)(newest + 1));
	b[KIND] = (uint8_t)(next.kind | (next.home ? HOME : 0));
	b[SLOT] = next.slot;
	put32(b + ID, next.id);
	b[CAUSE] = next.cause;
	b[DROPS] = next.drops;
	put16(b + RUN, next.run_ms);
	put16(b + DROP, next.drop_ms);
	ee_seal(b, JOURNAL_REC);
	ee_write(address(place), b, JOURNAL_REC);
}

void journal_append(const struct record *r)
{
	next = *r;
	place = any ? after(head) : 0;
	places = 0;
	if (chain == JOURNAL_RING)
		chain--;	/* the oldest is written over */
	busy = true;
	failed = false;
	write();
}

void journal_poll(void)
{
	if (!busy || ee_busy())
		return;
	if (ee_whole()) {
		any = true;
		chain = (uint8_t)(places ? 1 : chain + 1);	/* a place passed over is a gap */
		head = place;
		newest++;
		if (next.id > highest)
			highest = next.id;
		busy = false;
	} else if (++places == PLACES) {
		busy = false;
		failed = true;
	} else {
		place = after(place);
		write();
	}
}

bool journal_busy(void)
{
	return busy;
}

bool journal_failed(void)
{
	return failed;
}
