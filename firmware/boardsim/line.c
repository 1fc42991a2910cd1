/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * USART0. simavr counts a parity bit that is not there, takes 64 bytes without an
 * overrun and gives a byte away as soon as it is written; here a byte takes ten
 * bits, two wait behind the one that arrives, and the host has a byte when its
 * last bit is through. */
#include <stdlib.h>
#include <string.h>

#include <simavr/avr_uart.h>

#include "sim.h"

DEFINE_FIFO(uint16_t, uart_fifo);

enum {
	REG_UCSR0A = 0xc0, REG_UCSR0B = 0xc1, REG_UBRR0L = 0xc4, REG_UBRR0H = 0xc5, U2X = 0x02,
	BAUD = 115200,
	TO_BOARD = 1 << 16,	/* bytes on their way: what a driver buffers at most */
	UNREAD = 3,		/* two in the receiver's buffer and one in its shift register */
};
#define HOST_BYTE ((SIM_HZ * 10ull + BAUD / 2) / BAUD)

static avr_uart_t *uart;
static avr_irq_t *uart_in;
static uint8_t to_board[TO_BOARD];
static unsigned board_head, board_tail;
static uint64_t board_at = NEVER;	/* when the next byte's start bit comes */
static uint64_t board_free;		/* it cannot come before */
static struct { uint64_t at; uint8_t byte; } wire[4];	/* bytes whose last bit is not through */
static unsigned wire_n;
static uint8_t to_host[LINE_TAKE];
static unsigned host_n, drops, lost;
static bool silent;

unsigned line_drops(void) { return drops; }
void line_silent(bool s) { silent = s; }

bool line_frame_end(void) { return memchr(to_host, 0, host_n) != NULL; }

/* The time of a byte as the firmware has set it. */
static uint64_t line_byte(void)
{
	const uint8_t *r = chip_avr()->data;
	uint64_t div = (r[REG_UBRR0L] | (r[REG_UBRR0H] & 15) << 8) + 1u;

	return div * (r[REG_UCSR0A] & U2X ? 8 : 16) * 10;
}

static void line_to_host(uint8_t byte)
{
	if (silent)
		return;
	if (host_n == LINE_TAKE) {
		lost++;
		return;
	}
	to_host[host_n++] = byte;
}

static void line_wire_step(uint64_t now)
{
	unsigned done = 0;

	while (done < wire_n && wire[done].at <= now)
		line_to_host(wire[done++].byte);
	wire_n -= done;
	memmove(wire, wire + done, wire_n * sizeof *wire);
}

static void line_on_tx(avr_irq_t *irq, uint32_t v, void *param)
{
	(void)irq, (void)param;
	if (wire_n == sizeof wire / sizeof *wire) {
		log_event("\"ev\":\"FAULT\",\"why\":\"a byte was sent before the one before it was through\"");
		return;
	}
	wire[wire_n].at = (wire_n > 0 ? wire[wire_n - 1].at : chip_now()) + line_byte();
	wire[wire_n++].byte = (uint8_t)v;
	chip_changed();
}

static void line_on_control(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	(void)avr, (void)addr, (void)v, (void)param;
	uart->cycles_per_byte = line_byte();
}

static void line_board_step(uint64_t now)
{
	uint8_t byte;

	if (now < board_at)
		return;
	byte = to_board[board_tail++ % TO_BOARD];
	board_free = now + HOST_BYTE;
	board_at = board_head != board_tail ? board_free : NEVER;
	if (!chip_powered() || silent)
		return;
	if (uart_fifo_get_read_size(&uart->input) >= UNREAD) {
		drops++;
		avr_regbit_set(chip_avr(), uart->dor);
		return;
	}
	avr_raise_irq(uart_in, byte);
}

uint64_t line_next(void) { return earlier(board_at, wire_n > 0 ? wire[0].at : NEVER); }

void line_step(uint64_t now)
{
	line_wire_step(now);
	line_board_step(now);
}

void line_send(const uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n && board_head - board_tail < TO_BOARD; i++)
		to_board[board_head++ % TO_BOARD] = p[i];
	if (board_at == NEVER && n > 0)
		board_at = board_free > chip_now() ? board_free : chip_now();
	chip_changed();
}

unsigned line_take(const uint8_t **p)
{
	unsigned n = host_n;

	*p = to_host;
	host_n = 0;
	if (lost > 0)
		log_event("\"ev\":\"FAULT\",\"why\":\"%u bytes to the host were not fetched in time\"", lost);
	lost = 0;
	return n;
}

void line_power_off(void) { wire_n = 0; }
void line_reset(void) { wire_n = 0; }

void line_init(void)
{
	avr_t *avr = chip_avr();
	uint32_t none = 0;	/* no sleeping while polled, no printing */

	for (avr_io_t *io = avr->io_port; io != NULL; io = io->next)
		if (strcmp(io->kind, "uart") == 0 && ((avr_uart_t *)io)->name == '0')
			uart = (avr_uart_t *)io;
	if (uart == NULL)
		log_fatal("this libsimavr has no USART0");
	avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &none);
	uart_in = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
	avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT), line_on_tx, NULL);
	avr_register_io_write(avr, REG_UCSR0B, line_on_control, NULL);
}
