/* The board's codec as a filter, for the Go test in ../agree.
 *
 * In: lines of hexadecimal, the bytes of a serial line; a frame may be spread over
 * several lines. Out: for each line the frames that ended in it, each as kind, seq,
 * payload or a dash, and the bytes link_send makes of the three; then a dot. */
#include "../core/hal.h"
#include "../core/link.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

enum { LINE_ROOM = 64 };	/* as much as the board's ring takes */

static uint8_t room;

uint8_t hal_tx_room(void)
{
	return room;
}

void hal_tx(uint8_t byte)
{
	if (!room--)
		abort();
	printf("%02x", byte);
}

void link_on_frame(uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n)
{
	printf("%02x %02x ", kind, seq);
	for (uint8_t i = 0; i < n; i++)
		printf("%02x", payload[i]);
	printf(n ? " " : "- ");
	room = LINE_ROOM;
	link_send(kind, seq, payload, n);
	printf("\n");
}

static unsigned digit(int c)
{
	return (unsigned)(isdigit(c) ? c - '0' : c - 'a' + 10);
}

int main(void)
{
	int c, high = -1;

	link_init();
	while ((c = getchar()) != EOF) {
		if (c == '\n') {
			printf(".\n");
			high = -1;
			continue;
		}
		if (!isxdigit(c))
			return 2;
		if (high < 0) {
			high = c;
			continue;
		}
		link_rx((uint8_t)(digit(high) << 4 | digit(c)));
		high = -1;
	}
	return 0;
}
