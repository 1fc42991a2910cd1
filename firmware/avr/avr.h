/* What the parts of this side offer each other and main. The core sees hal.h only.
 *
 * An _init sets every register it needs: a bootloader may have run before us. A
 * _tick is called once a millisecond, in the tick's interrupt. */
#ifndef AVR_H
#define AVR_H

#include <stdbool.h>

void motor_init(void);
void motor_tick(void);

void drop_init(void);
void drop_tick(void);

void door_init(void);
void door_tick(void);

void adc_init(void);
void adc_tick(void);

void i2c_init(void);

void uart_init(void);
bool uart_waiting(void);	/* a byte is there for hal_rx; interrupts are off */
void uart_drain(void);		/* sends what hal_tx took; interrupts are off */

void tick_init(void);		/* after all that have a _tick */
bool tick_waiting(void);	/* a millisecond has passed since tick_take */
bool tick_take(void);		/* the same, and takes it */

#endif
