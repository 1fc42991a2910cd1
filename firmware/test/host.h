/* The Pi's side of the line, and a healthy board to talk to: frames in, answers
 * out, nothing of the core but its bytes. */
#ifndef HOST_H
#define HOST_H

#include "fake.h"

/* One answer of the board; kind 0 is none. */
struct answer {
	uint8_t kind, seq, n;
	uint8_t p[PROTO_MAX_PAYLOAD];
};

struct hello {
	uint8_t kind;		/* MSG_HELLO_IS, or what came instead */
	uint8_t proto, reset_cause;
	uint64_t serial;
	uint32_t build, hash, highest, boot, uptime;
	uint8_t fitted[8];
};

struct vend {
	uint8_t kind;		/* MSG_VEND_STATE, or what came instead */
	uint8_t reason, fault;	/* of a NAK */
	uint32_t id;
	uint8_t slot, state, phase, cause, drops;
	bool repeat;
	uint16_t run_ms, drop_ms;
};

struct status {
	uint8_t kind;		/* MSG_STATUS_IS, or what came instead */
	uint8_t reason, fault;	/* of a NAK */
	uint32_t boot, uptime, turns, drops;
	uint8_t not_home[8];
	uint16_t ma, spontaneous, centi_rh;
	int16_t centi_c;
	bool door_open, lock_open, sensor_dark, climate, journal_bad;
	uint8_t light, curtain, motion, slot, phase, cause, latched, latched_slot;
};

enum { ANSWER_MS = 60 };	/* an answer is here by then; the longest waits for the curtain's test */

/* Frames. host_frame writes COBS(kind seq payload crc) 00 and returns its length. */
uint8_t host_frame(uint8_t *out, uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n);
bool host_answer(struct answer *a);	/* takes the next answer that has come */

/* Questions. Each waits for its answer, ANSWER_MS at most; seq rises by itself. */
struct answer ask(uint8_t kind, const uint8_t *payload, uint8_t n);
struct answer ask_seq(uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n);
bool ping(void);
struct hello hello(void);
struct vend vend(uint32_t id, uint8_t slot);
struct vend vend_seq(uint32_t id, uint8_t slot, uint8_t seq);
struct vend query(uint32_t id);
struct status status(void);
struct status lock(uint16_t ms);
struct status light(uint8_t percent);
struct status hold(uint8_t slot, uint8_t motion, uint8_t press);
struct status clear(uint8_t fault);
struct hello configure(const uint8_t *payload);

/* The payload of CONFIGURE with every slot fitted and the usual limits, and its fields. */
void usual_config(uint8_t *payload);
void set_u16(uint8_t *payload, uint8_t at, uint16_t value);
void set_bit(uint8_t *set, uint8_t slot);
bool has_bit(const uint8_t *set, uint8_t slot);

/* Boards. */
void new_board(void);		/* new, booted, configured, and saved */
void reboot(void);		/* power goes, comes back, and the board answers */
bool board_answers(uint32_t within_ms);
void wait_ms(uint32_t ms);	/* with a heartbeat, as a host has */
void until_motor(bool on);	/* waits until a motor has power or none has, 20 s at most */
struct vend vend_over(uint32_t id);	/* waits until the vend is not RUNNING, 40 s at most */
struct vend vend_all(uint32_t id, uint8_t slot);	/* starts it and waits for its end */
struct status hold_for(uint8_t slot, uint8_t motion, uint8_t press, uint32_t ms);	/* a finger on the button */

#endif
