/* What the board keeps beside its vends: its counters, which slots stand in
 * mid-turn, the latched fault, and the configuration.
 *
 * Counters are a checkpoint and the journal's records since: what a power cut
 * kept from the checkpoint is counted from the journal at the next boot. It owns
 * what is written to EEPROM and when, the journal included; it knows nothing of
 * motors. */
#ifndef KEEP_H
#define KEEP_H

#include "journal.h"

#include <stdbool.h>
#include <stdint.h>

struct keep {
	uint32_t turns;		/* vends and tests that got motor power */
	uint32_t drops;		/* pieces seen, but for those of the vend in hand that have no record yet */
	uint32_t boot;		/* boots */
	uint8_t not_home[8];	/* slots that stand in mid-turn */
	uint8_t latched, latched_slot;
};

struct config {
	uint16_t leave_ms, turn_ms, slow_ms, jam_ma, jam_ms, open_ma;
};

extern struct keep keep;	/* change it, then keep_save */
extern struct config config;	/* only with keep_configured */

void keep_init(void);		/* reads everything, counts the boot, starts to save it */
void keep_poll(void);
void keep_save(void);		/* soon */
bool keep_saved(void);		/* nothing waits to be saved, or it failed */

/* A record goes before whatever else waits. */
void keep_record(const struct record *r);
bool keep_recorded(void);	/* the last record stands, or failed */

bool keep_failed(void);		/* EEPROM does not take what it is given */
void keep_retry(void);

/* payload is that of CONFIGURE. */
bool keep_valid(const uint8_t *payload);
void keep_configure(const uint8_t *payload);
bool keep_configured(void);
uint32_t keep_config_hash(void);	/* 0 without */
const uint8_t *keep_fitted(void);
bool keep_turns(uint8_t slot);		/* fitted, and not the right half of a pair */
bool keep_paired(uint8_t slot);		/* its right neighbour turns with it */

#endif
