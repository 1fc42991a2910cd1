/* Start and main loop of the ATmega2560 board. See ../core for what it does. */
#include <avr/interrupt.h>
#include <avr/sleep.h>
#include <avr/wdt.h>

#include "../core/board.h"
#include "avr.h"
#include "pins.h"

/* Every pin is an input with a pull-up, until the part that owns it says otherwise;
 * pins with a pull-down on the board are let float meanwhile. A bootloader may have
 * left outputs behind: they go low first. */
static void pins_init(void)
{
	PORTA = (uint8_t)~ROW_MASK;
	DDRA = 0;
	PORTB = (uint8_t)~_BV(ENABLE_BIT);
	DDRB = 0;
	PORTC = 0;
	DDRC = 0;
	PORTD = 0xff;
	DDRD = 0;
	PORTE = (uint8_t)~_BV(LIGHT_BIT);
	DDRE = 0;
	PORTF = (uint8_t)~_BV(CURRENT_CHANNEL);
	DDRF = 0;
	PORTG = (uint8_t)~COL_HI_MASK;
	DDRG = 0;
	PORTH = (uint8_t)~(_BV(EMITTER_BIT) | _BV(LOCK_BIT));
	DDRH = 0;
	PORTJ = 0xff;
	DDRJ = 0;
	PORTK = 0xff;
	DDRK = 0;
	PORTL = 0xff;
	DDRL = 0;
}

/* Sleeps to the next interrupt, unless one has brought work since the last pass. No
 * interrupt gets between sei and sleep, so no wake-up is lost. */
static void rest(void)
{
	cli();
	if (!uart_waiting() && !tick_waiting()) {
		sleep_enable();
		sei();
		sleep_cpu();
		sleep_disable();
	}
	sei();
}

int main(void)
{
	pins_init();
	motor_init();
	drop_init();
	door_init();
	adc_init();
	i2c_init();
	uart_init();
	tick_init();
	set_sleep_mode(SLEEP_MODE_IDLE);
	wdt_enable(WDTO_500MS);
	sei();
	board_init();
	for (;;) {
		bool ticked = tick_take();

		board_poll();
		/* The only place that feeds the watchdog: it bites when the main loop
		 * hangs, and when the tick, which holds the limits, is dead. */
		if (ticked)
			wdt_reset();
		rest();
	}
}
