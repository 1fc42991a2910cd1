/* I2C master at 100 kHz, a transfer at a time, by interrupt. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <util/atomic.h>
#include <util/delay.h>
#include <util/twi.h>

#include "../core/hal.h"
#include "avr.h"
#include "pins.h"

#define BITRATE ((F_CPU / 100000 - 16) / 2)

enum { HALF_BIT_US = 5 };
enum { FREE_CLOCKS = 9 };	/* a byte and its acknowledge: no slave holds on longer */

static uint8_t *data;
static uint8_t address;		/* with the direction, as on the wire */
static uint8_t left;		/* bytes still to move */
static volatile enum hal_i2c state = HAL_I2C_DONE;

void i2c_init(void)
{
	/* The bus has its own pull-ups. When TWI is off, a pin is let go or pulled low
	 * by its direction alone. */
	I2C_PORT &= (uint8_t)~(_BV(SCL_BIT) | _BV(SDA_BIT));
	I2C_DDR &= (uint8_t)~(_BV(SCL_BIT) | _BV(SDA_BIT));
	TWBR = BITRATE;
	TWSR = 0;
	TWCR = _BV(TWEN);
}

static inline void go_on(uint8_t bits)
{
	TWCR = _BV(TWINT) | _BV(TWEN) | _BV(TWIE) | bits;
}

static inline void stop(enum hal_i2c how)
{
	TWCR = _BV(TWINT) | _BV(TWEN) | _BV(TWSTO);
	state = how;
}

static inline void write_next(void)
{
	if (left == 0) {
		stop(HAL_I2C_DONE);
		return;
	}
	left--;
	TWDR = *data++;
	go_on(0);
}

/* The last byte is not acknowledged: that ends a read. */
static inline void read_next(void)
{
	go_on(left > 1 ? _BV(TWEA) : 0);
}

static inline void take(void)
{
	left--;
	*data++ = TWDR;
}

ISR(TWI_vect)
{
	switch (TW_STATUS) {
	case TW_START:
		TWDR = address;
		go_on(0);
		return;
	case TW_MT_SLA_ACK:
	case TW_MT_DATA_ACK:
		write_next();
		return;
	case TW_MR_SLA_ACK:
		read_next();
		return;
	case TW_MR_DATA_ACK:
		take();
		read_next();
		return;
	case TW_MR_DATA_NACK:
		take();
		stop(HAL_I2C_DONE);
		return;
	default:	/* nobody there, a refusal, or a bent bus: STOP lets go of it */
		stop(HAL_I2C_FAILED);
	}
}

static void start(uint8_t addr, uint8_t direction, uint8_t *buf, uint8_t n)
{
	address = (uint8_t)(addr << 1) | direction;
	data = buf;
	left = n;
	state = HAL_I2C_BUSY;
	go_on(_BV(TWSTA));
}

void hal_i2c_write(uint8_t addr, const uint8_t *buf, uint8_t n)
{
	start(addr, TW_WRITE, (uint8_t *)buf, n);	/* it is only read */
}

void hal_i2c_read(uint8_t addr, uint8_t *buf, uint8_t n)
{
	start(addr, TW_READ, buf, n);
}

/* A transfer is over when its STOP is, so that the next START cannot meet it. */
enum hal_i2c hal_i2c_state(void)
{
	return (TWCR & _BV(TWSTO)) ? HAL_I2C_BUSY : state;
}

static void pull(uint8_t bit)
{
	I2C_DDR |= _BV(bit);
	_delay_us(HALF_BIT_US);
}

static void let_go(uint8_t bit)
{
	I2C_DDR &= (uint8_t)~_BV(bit);
	_delay_us(HALF_BIT_US);
}

/* A slave that lost count in mid-byte holds the data line low until it has seen
 * the clocks it waits for. Takes 110 us at most; a clock line that is held down
 * cannot be helped from here. */
static void free_bus(void)
{
	uint8_t i;

	for (i = 0; i < FREE_CLOCKS && !(I2C_PIN & _BV(SDA_BIT)); i++) {
		pull(SCL_BIT);
		let_go(SCL_BIT);
	}
	pull(SDA_BIT);		/* a START and a STOP: whoever still listens is done */
	let_go(SDA_BIT);
}

void hal_i2c_abort(void)
{
	TWCR = 0;
	state = HAL_I2C_FAILED;
	free_bus();
	TWCR = _BV(TWEN);
}
