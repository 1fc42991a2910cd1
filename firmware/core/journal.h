/* The ring of records in EEPROM that says what became of each vend.
 *
 * Records are only appended: a vend has one when it begins, one for each piece
 * that fell, one when it ends. It owns where they lie and what they prove; it
 * knows nothing of motors. */
#ifndef JOURNAL_H
#define JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

enum {
	JOURNAL_AT = 16,	/* AVRs that lose power in mid-write corrupt address 0 most easily */
	JOURNAL_RING = 216,	/* records */
	JOURNAL_REC = 16,	/* bytes of one */
	JOURNAL_END = JOURNAL_AT + JOURNAL_RING * JOURNAL_REC,
};

/* Kinds of record. */
enum { REC_START = 1, REC_DROP = 2, REC_END = 3 };

struct record {
	uint32_t id;
	uint16_t run_ms, drop_ms;
	uint8_t kind, slot, cause, drops;
	bool home;		/* stopped at home */
};

void journal_init(void);
uint32_t journal_highest(void);		/* highest id that stands in a record; 0 is none */
uint16_t journal_serial(void);		/* of the newest record; rises by one for each, wraps */

/* The k-th newest place, 0 is the newest. False if no record stands there. */
bool journal_at(uint8_t k, struct record *r, uint16_t *serial);

/* What the records say of id: STATE_ENDED, STATE_INTERRUPTED (begun, no end) with
 * *r filled, or STATE_NONE, STATE_SKIPPED, STATE_FORGOTTEN. */
uint8_t journal_find(uint32_t id, struct record *r);

/* Appending: begin once, then poll until it is not busy. A place that does not
 * take the record is passed over, three in a row are a failure. */
void journal_append(const struct record *r);
void journal_poll(void);
bool journal_busy(void);
bool journal_failed(void);

#endif
