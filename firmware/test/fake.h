/* A board that is not there: the hal of ../core/hal.h over a small cabinet with
 * spirals, home switches, drop sensor, door, lock, EEPROM and climate sensor, in
 * steps of one millisecond. It keeps the contract and aborts when the core breaks
 * it. It knows the layout of a journal record, to see that no motor gets power
 * without one, and nothing else of the core. */
#ifndef FAKE_H
#define FAKE_H

#include "../core/beam.h"
#include "../core/hal.h"
#include "../core/proto.h"

/* The physics, in millionths of a turn, milliseconds and milliamperes. */
enum {
	TURN = 1000000,
	TURN_HOME = 80000,	/* home switch is closed from 0 to here */
	TURN_JAM = 400000,	/* a jam holds here */
	TURN_EDGE = 800000,	/* the piece lets go */
	USUAL_TURN_MS = 2500,
	FALL_MS = 120,		/* from the edge to the beam */
	PASS_MS = 12,		/* through it */
	APART_MS = 40,		/* between two that fall together */
	INRUSH_FAKE_MS = 60,
	RUN_MA = 300, SLOW_MA = 450, JAM_MA = 1500, SHORT_MA = 4500, INRUSH_MA = 900,
	EE_BYTE_MS = 4,
	POWERED = 128,
	RX_MAX = 4096, TX_RING = 64, OUT_MAX = 4096, FALLS = 16,
	TX_BYTES_PER_MS = 11,
};

/* One slot of the tray, and what is wrong with it. */
struct spiral {
	uint32_t pos;		/* of the spiral, millionths of a turn past home */
	uint32_t changed;	/* when the home switch changed last */
	uint32_t glitch;	/* position where the switch reads wrong for a millisecond; 0 is none */
	uint16_t turn_ms, late_ms, bounce_ms;
	uint8_t pieces, hang, edge;
	bool jam, absent, shorted, stuck_home, runaway, twice;
	bool lost_home;		/* by a runaway */
	bool was_home;
};

enum climate { CLIMATE_GOOD, CLIMATE_ABSENT, CLIMATE_HANGS, CLIMATE_BAD_T, CLIMATE_BAD_RH, CLIMATE_ALL_ONES };

/* Everything around the core. A test changes what it likes between two ticks. */
struct fake {
	uint32_t now, booted;	/* ms of the world; hal_now_ms is their difference */
	uint32_t boots;
	bool dead;		/* no power */
	uint8_t polls;		/* of the core in a millisecond; 1 */
	uint8_t cause;		/* of the reset */
	uint64_t serial;

	struct spiral slot[LIM_SLOTS];
	uint8_t row;		/* of the motors with power */
	uint16_t cols;		/* 0: none */
	uint32_t on_at, on_limit;
	bool tripped;
	uint32_t on_count;	/* calls of hal_motor_on in all */
	uint32_t longest_on;

	uint32_t falls[FALLS];	/* when they reach the beam */
	uint8_t nfalls;
	uint32_t fallen;	/* pieces through the beam in all */
	struct beam beam;
	uint8_t drops;
	bool emitter, blocked, blind;

	bool door;
	uint32_t lock_until;
	bool lock;
	uint8_t light;

	uint8_t ee[HAL_EE_SIZE];
	uint8_t stuck[HAL_EE_SIZE];	/* bits of a cell that stay one */
	bool ee_busy;
	uint16_t ee_at;
	uint8_t ee_value;
	uint32_t ee_done;
	uint32_t ee_writes;	/* in all */
	uint32_t cut_in;	/* power fails in the n-th write from here; 0 is never */
	uint8_t torn;		/* what is in that byte then */

	enum climate climate;
	int16_t centi_c;
	uint16_t centi_rh;
	uint8_t i2c_addr, i2c_n;
	uint8_t *i2c_buf;
	bool i2c_busy, i2c_reading, i2c_failed;
	uint32_t i2c_done, measured;
	uint32_t aborts;

	uint8_t rx[RX_MAX];
	uint16_t rx_in, rx_out;
	uint8_t tx[TX_RING];
	uint8_t tx_n;
	bool tx_stopped;	/* the line takes nothing: the ring stays full */
	uint8_t out[OUT_MAX];	/* what has left the board */
	uint16_t out_n;

	bool restart;		/* hal_restart was called */

	/* The police. */
	uint32_t start_id;	/* of the START record written whole since boot, and not ended */
	uint8_t start_slot, start_count;	/* motor starts under it */
	uint32_t held_until[LIM_SLOTS + 1];	/* by slot: HoldMS after its last HOLD was taken from the line */
	uint8_t heard[256], heard_n;	/* bytes since the last zero */
	uint32_t powered[POWERED];	/* ids whose motor has had power, the last ones */
	uint8_t npowered;
};

extern struct fake fake;

void fake_new(void);		/* a new board in a healthy cabinet, without power */
void fake_boot(uint8_t cause);	/* power comes, or a reset */
void fake_cut(void);		/* power goes */
bool fake_tick(uint32_t ms);	/* time passes and the core runs; false when power has gone */
void fake_fall(uint32_t in_ms);	/* a piece reaches the beam then */
void fake_send(const uint8_t *p, uint16_t n);	/* bytes to the board */
void fake_torn(uint8_t value);	/* power goes now, and leaves this in a byte being written */

/* Slots of the wire, 1 to 60. */
static inline struct spiral *fake_slot(uint8_t slot)
{
	return &fake.slot[slot - 1];
}

bool fake_powered(uint32_t id);	/* id's motor has had power */

static inline bool fake_motor(void)
{
	return fake.cols != 0;
}

/* fake_breach says which promise was broken and aborts. */
void fake_breach(const char *file, int line, const char *what) __attribute__((noreturn));
#define KEEP(x) do { if (!(x)) fake_breach(__FILE__, __LINE__, #x); } while (0)

#endif
