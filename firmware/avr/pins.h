/* Every pin of the ATmega2560 board, here and nowhere else.
 *
 * All outputs float while the chip is in reset: the pull-downs in ../README.md
 * are part of the design. */
#ifndef PINS_H
#define PINS_H

#include <avr/io.h>

/* Motor rows 0 to 5: high sides, PA0 to PA5, on when high. */
#define ROW_PORT PORTA
#define ROW_DDR  DDRA
#define ROW_MASK 0x3f

/* Motor columns 0 to 7: low sides, PC0 to PC7; 8 and 9: PG0 and PG1. On when high. */
#define COL_PORT PORTC
#define COL_DDR  DDRC
#define COL_HI_PORT PORTG
#define COL_HI_DDR  DDRG
#define COL_HI_MASK 0x03

/* Home switches: PL0 to PL5 select a row when low; PK0 to PK7, PJ0 and PJ1 are the
 * columns, pulled up, low when the switch is closed. */
#define STROBE_PORT PORTL
#define STROBE_DDR  DDRL
#define STROBE_MASK 0x3f
#define HOME_PIN  PINK
#define HOME_PORT PORTK
#define HOME_HI_PIN  PINJ
#define HOME_HI_PORT PORTJ
#define HOME_HI_MASK 0x03

/* Master enable of the motor supply: PB6, on when high. Not PB7: there is the LED
 * that the bootloader of a Mega switches on. */
#define ENABLE_PORT PORTB
#define ENABLE_DDR  DDRB
#define ENABLE_BIT  PB6

/* Drop sensor: receiver PE4, pulled up, low while it sees light, so that a cut wire
 * is dark. Emitter PH3, on when high. */
#define BEAM_PIN  PINE
#define BEAM_PORT PORTE
#define BEAM_BIT  PE4
#define EMITTER_PORT PORTH
#define EMITTER_DDR  DDRH
#define EMITTER_BIT  PH3

/* Door switch: PE5, pulled up, low while the door is shut, so that a cut wire is open. */
#define DOOR_PIN  PINE
#define DOOR_PORT PORTE
#define DOOR_BIT  PE5

/* Lock coil: PH4, power when high. */
#define LOCK_PORT PORTH
#define LOCK_DDR  DDRH
#define LOCK_BIT  PH4

/* Light: PE3 is OC3A, PWM of timer 3; a plain pin when off, and when fully on. */
#define LIGHT_PORT PORTE
#define LIGHT_DDR  DDRE
#define LIGHT_BIT  PE3

/* Motor current: ADC0 (PF0), 1 V is 1 A, 5 V full scale. Serial line: USART0, PE0
 * and PE1. */
#define CURRENT_CHANNEL 0

/* I2C: PD0 is SCL, PD1 is SDA, with pull-ups on the board. */
#define I2C_PIN  PIND
#define I2C_PORT PORTD
#define I2C_DDR  DDRD
#define SCL_BIT  PD0
#define SDA_BIT  PD1

#endif
