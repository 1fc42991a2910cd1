/* libFuzzer: bytes from the line. What the link accepts it must be able to send,
 * and accept again as the same. */
#include "../core/hal.h"
#include "../core/link.h"
#include "../core/proto.h"

#include <stdlib.h>
#include <string.h>

/* The last frame accepted, and what link_send made of it. */
static uint8_t got[2 + PROTO_MAX_PAYLOAD], got_n, sent[PROTO_MAX_FRAME], sent_n;
static unsigned frames;

uint8_t hal_tx_room(void)
{
	return sizeof sent;
}

void hal_tx(uint8_t byte)
{
	if (sent_n == sizeof sent)
		abort();
	sent[sent_n++] = byte;
}

void link_on_frame(uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n)
{
	if (n > PROTO_MAX_PAYLOAD)
		abort();
	frames++;
	got[0] = kind;
	got[1] = seq;
	memcpy(got + 2, payload, n);
	got_n = (uint8_t)(n + 2);
}

/* Sends what has been accepted, and hears itself. */
static void echo(void)
{
	uint8_t was[sizeof got], was_n = got_n;
	unsigned before = frames;

	memcpy(was, got, was_n);
	sent_n = 0;
	link_send(was[0], was[1], was + 2, (uint8_t)(was_n - 2));
	if (!sent_n || memchr(sent, 0, sent_n) != sent + sent_n - 1)
		abort();
	for (uint8_t i = 0; i < sent_n; i++)
		link_rx(sent[i]);
	if (frames != before + 1 || got_n != was_n || memcmp(got, was, was_n) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	link_init();
	for (size_t i = 0; i < size; i++) {
		unsigned before = frames;

		link_rx(data[i]);
		if (frames != before && data[i] != 0)
			abort();
		if (frames != before)
			echo();
	}
	return 0;
}
