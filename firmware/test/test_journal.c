/* What the board remembers of its vends: as long as promised, across power cuts,
 * worn cells and the wrap of its numbers. */
#include "check.h"
#include "host.h"

#include "../core/crc.h"
#include "../core/journal.h"

#include <string.h>

/* A board whose slots turn fast: for many vends. */
static void fast_board(void)
{
	new_board();
	for (uint8_t i = 0; i < LIM_SLOTS; i++) {
		fake.slot[i].turn_ms = 250;
		fake.slot[i].pieces = 255;
	}
}

/* Writes a record as another year's firmware would have. */
static void put_record(uint8_t place, uint16_t serial, uint8_t kind, uint32_t id, uint8_t slot, uint8_t drops)
{
	uint8_t *b = fake.ee + JOURNAL_AT + place * JOURNAL_REC;

	memset(b, 0, JOURNAL_REC);
	set_u16(b, 0, serial);
	b[2] = kind;
	b[3] = slot;
	set_u16(b, 4, (uint16_t)id);
	set_u16(b, 6, (uint16_t)(id >> 16));
	b[9] = drops;
	set_u16(b, 14, crc16(b, 14));
}

static void skipping(void)
{
	fast_board();
	EQ(query(5).state, STATE_NONE);
	EQ(vend_all(10, 1).state, STATE_ENDED);
	EQ(vend_all(20, 2).state, STATE_ENDED);
	for (int boots = 0; boots < 2; boots++) {
		static const struct { uint32_t id; uint8_t state; } want[] = {
			{ 1, STATE_SKIPPED }, { 9, STATE_SKIPPED }, { 10, STATE_ENDED }, { 11, STATE_SKIPPED },
			{ 19, STATE_SKIPPED }, { 20, STATE_ENDED }, { 21, STATE_NONE }, { 0xffffffff, STATE_NONE },
		};

		for (unsigned i = 0; i < sizeof want / sizeof *want; i++) {
			struct vend v = query(want[i].id);

			EQ(v.state, want[i].state);
			EQ(v.id, want[i].id);
			CHECK(v.repeat);
			if (want[i].state == STATE_ENDED)
				continue;
			EQ(v.slot, 0);
			EQ(v.cause, 0);
			if (want[i].state == STATE_SKIPPED)
				EQ(vend(want[i].id, 1).reason, NAK_STALE);
		}
		EQ(hello().highest, 20);
		reboot();
	}
	EQ(vend_all(0xffffffff, 1).state, STATE_ENDED);		/* the last id there is */
	EQ(query(0xfffffffe).state, STATE_SKIPPED);
	EQ(hello().highest, 0xffffffff);
}

/* JournalKeep vends of one piece each are remembered, and no more is promised. */
static void wraps(void)
{
	enum { LAST = 600, STEP = 2 };

	fast_board();
	for (uint32_t id = STEP; id <= LAST; id += STEP) {
		EQ(vend_all(id, (uint8_t)(id % LIM_SLOTS + 1)).state, STATE_ENDED);
		if (id % 100)
			continue;
		reboot();
		EQ(hello().highest, id);
		EQ(query(id).state, STATE_ENDED);
		EQ(query(id + 1).state, STATE_NONE);
	}
	for (uint32_t id = LAST - (LIM_JOURNAL_KEEP - 1) * STEP; id <= LAST; id += STEP) {
		EQ(query(id).state, STATE_ENDED);
		EQ(query(id).slot, id % LIM_SLOTS + 1);
		EQ(query(id).drops, 1);
		if (id < LAST)
			EQ(query(id + 1).state, STATE_SKIPPED);
	}
	for (uint32_t id = 1; id < LAST - LIM_JOURNAL_KEEP * STEP; id++) {
		EQ(query(id).state, STATE_FORGOTTEN);
		EQ(vend(id, 1).reason, NAK_STALE);
	}
	EQ(status().turns, LAST / STEP);
	EQ(status().drops, LAST / STEP);
}

/* The serial of a record has 16 bits: after the last comes 0, and order stays. */
static void serials_wrap(void)
{
	fast_board();
	for (uint8_t i = 0; i < 10; i++)
		put_record(i, (uint16_t)(65525 + i), i % 2 ? REC_END | 0x80 : REC_START, 100 + i / 2u, 3, i % 2);
	reboot();
	EQ(hello().highest, 104);
	for (uint32_t id = 105; id < 125; id++) {
		EQ(vend_all(id, 4).state, STATE_ENDED);
		reboot();
		EQ(hello().highest, id);
		EQ(query(id).slot, 4);
		for (uint32_t old = 100; old <= id; old++)
			EQ(query(old).state, STATE_ENDED);
	}
	EQ(fake.ee[JOURNAL_AT + 11 * JOURNAL_REC], 0);		/* 65536th */
}

/* Bytes whose checksum is right by chance are no record if they make no sense. */
static void nonsense(void)
{
	static const struct {
		const char *name;
		uint32_t id;
		uint8_t kind, slot;
	} cases[] = {
		{ "id 0", 0, REC_END, 1 }, { "slot 0", 500, REC_END, 0 }, { "slot 61", 500, REC_END, 61 },
		{ "kind 0", 500, 0, 1 }, { "kind 4", 500, 4, 1 }, { "kind 127", 500, 127, 1 },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		check_in(cases[i].name);
		fast_board();
		vend_all(10, 1);
		put_record(3, 9, cases[i].kind, cases[i].id, cases[i].slot, 1);
		reboot();
		EQ(hello().highest, 10);
		EQ(query(500).state, STATE_NONE);
		EQ(vend_all(11, 1).state, STATE_ENDED);
		reboot();
		EQ(query(11).state, STATE_ENDED);
		EQ(query(10).state, STATE_ENDED);
	}
	check_in(0);
}

/* A cell that is worn costs its place in the ring, three in a row the journal. */
static void worn(void)
{
	for (uint8_t bad = 1; bad <= 3; bad++) {
		fast_board();
		EQ(vend_all(1, 1).state, STATE_ENDED);		/* places 0 to 2 */
		for (uint8_t i = 0; i < bad; i++)
			fake.stuck[JOURNAL_AT + (3 + i) * JOURNAL_REC + 8] = 0xff;
		vend(2, 2);
		if (bad == 3) {
			EQ(vend_over(2).cause, FAULT_JOURNAL);
			EQ(fake.on_count, 1);
			CHECK(status().journal_bad);
			continue;
		}
		EQ(vend_over(2).cause, 0);
		CHECK(!status().journal_bad);
		EQ(vend_all(4, 2).state, STATE_ENDED);
		reboot();
		EQ(query(1).state, STATE_ENDED);
		EQ(query(2).state, STATE_ENDED);
		EQ(query(4).state, STATE_ENDED);
		EQ(query(3).state, STATE_SKIPPED);
		EQ(hello().highest, 4);
		EQ(fake.on_count, 3);
		for (uint32_t id = 5; id < 160; id++)
			EQ(vend_all(id, 2).cause, 0);		/* past them again */
		reboot();
		EQ(hello().highest, 159);
		EQ(query(100).state, STATE_ENDED);
		EQ(vend(2, 2).reason, NAK_STALE);
	}
}

/* A cell that fails once and then takes its byte costs nothing. */
static void flickers(void)
{
	fast_board();
	fake.stuck[JOURNAL_AT + 8] = 0xff;
	vend(1, 1);
	while (fake.ee_at != JOURNAL_AT + 8)
		fake_tick(1);
	fake_tick(EE_BYTE_MS);
	fake.stuck[JOURNAL_AT + 8] = 0;
	EQ(vend_over(1).cause, 0);
	EQ(fake.ee[JOURNAL_AT + 2], REC_START);
}

/* A vend that was interrupted stays that, however many follow it, and the newest
 * of its records tells what fell. */
static void interrupted(void)
{
	fast_board();
	put_record(0, 1, REC_START, 5, 9, 0);
	put_record(1, 2, REC_DROP, 5, 9, 1);
	put_record(2, 3, REC_DROP, 5, 9, 3);
	put_record(3, 4, REC_START, 6, 8, 0);
	reboot();
	for (uint32_t id = 7; id < 30; id++)
		EQ(vend_all(id, 1).state, STATE_ENDED);
	reboot();
	EQ(query(5).state, STATE_INTERRUPTED);
	EQ(query(5).drops, 3);
	EQ(query(5).slot, 9);
	EQ(query(6).state, STATE_INTERRUPTED);
	EQ(query(6).drops, 0);
	EQ(vend(6, 8).state, STATE_INTERRUPTED);
	EQ(vend(31, 8).reason, NAK_NOT_HOME);
	EQ(vend(31, 9).reason, NAK_NOT_HOME);
}

/* Of a torn START nothing is known: its id may come again, and then turns once. */
static void torn_start(void)
{
	fast_board();
	fake.cut_in = 10;
	fake.torn = 0x5a;
	vend(3, 1);
	fake_tick(100);
	CHECK(fake.dead);
	reboot();
	EQ(query(3).state, STATE_NONE);
	EQ(hello().highest, 0);
	EQ(vend_all(3, 1).state, STATE_ENDED);
	EQ(fake.on_count, 1);
}

/* A ring that is full of rubbish is an empty one. */
static void rubbish(void)
{
	fast_board();
	vend_all(9, 1);
	for (uint16_t i = JOURNAL_AT; i < JOURNAL_END; i++)
		fake.ee[i] = (uint8_t)(i * 37 ^ i >> 3);
	reboot();
	EQ(hello().highest, 0);
	EQ(query(9).state, STATE_NONE);
	EQ(vend_all(10, 2).state, STATE_ENDED);
	EQ(query(9).state, STATE_FORGOTTEN);		/* rubbish may have been a record once */
	reboot();
	EQ(query(10).state, STATE_ENDED);
	EQ(vend(9, 1).reason, NAK_STALE);
}

void test_journal(void)
{
	skipping();
	wraps();
	serials_wrap();
	nonsense();
	worn();
	flickers();
	interrupted();
	torn_start();
	rubbish();
}
