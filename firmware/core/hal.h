/* What the core needs of a board. Every call returns at once.
 *
 * The hal owns pins, interrupts and the limits that hold when the program
 * does not: motor and lock lose power at the end of the time they were given,
 * whatever the main loop does. It knows nothing of vends. */
#ifndef HAL_H
#define HAL_H

#include <stdbool.h>
#include <stdint.h>

uint32_t hal_now_ms(void);		/* since boot, wraps after 49 days */

/* Motors stand in 6 rows (0 to 5) of 10 columns: bit c of cols is column c. */
void hal_motor_on(uint8_t row, uint16_t cols, uint16_t max_ms);	/* and no other motor */
void hal_motor_only(uint16_t cols);	/* of those that run, let only these run on */
void hal_motor_off(void);
bool hal_motor_tripped(void);		/* the time limit has cut the motor since hal_motor_on */
uint16_t hal_motor_ma(void);		/* of the common motor line, 0 to 5000 */
uint16_t hal_home(uint8_t row);		/* bit c: home switch is closed; as it stands, not debounced */

/* Drop sensor. A piece is a dark stretch of BEAM_DARK_MS or more. */
uint8_t hal_drops(void);		/* pieces since boot, wraps */
bool hal_beam_dark(void);		/* the receiver sees no light; as it stands */
void hal_emitter(bool on);		/* off: nothing is counted */

bool hal_door_open(void);		/* debounced */
void hal_lock(uint16_t ms);		/* power on the coil for so long; 0 takes it away */
bool hal_lock_open(void);		/* the coil has power */
void hal_light(uint8_t percent);

/* EEPROM. A byte takes about 3.4 ms; hal_ee_ready says that none is being written. */
#define HAL_EE_SIZE 4096u
bool hal_ee_ready(void);
uint8_t hal_ee_read(uint16_t addr);	/* waits for the byte being written, if any */
void hal_ee_write(uint16_t addr, uint8_t value);	/* only when ready */

/* I2C, one transfer at a time; buf is in use until hal_i2c_state is not BUSY. */
enum hal_i2c { HAL_I2C_BUSY, HAL_I2C_DONE, HAL_I2C_FAILED };
void hal_i2c_write(uint8_t addr, const uint8_t *buf, uint8_t n);
void hal_i2c_read(uint8_t addr, uint8_t *buf, uint8_t n);
enum hal_i2c hal_i2c_state(void);
void hal_i2c_abort(void);		/* gives up a transfer that hangs; frees the bus */

/* The line to the host. */
int16_t hal_rx(void);			/* next byte; -1 is none */
uint8_t hal_tx_room(void);		/* bytes that hal_tx takes now */
void hal_tx(uint8_t byte);

uint8_t hal_reset_cause(void);		/* RESET_ in proto.h */
uint64_t hal_serial(void);		/* 0 if none was ever set */
uint32_t hal_build(void);
void hal_restart(void);			/* resets soon, into the bootloader if there is one */

#endif
