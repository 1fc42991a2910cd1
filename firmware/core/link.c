#include "link.h"
#include "bytes.h"
#include "crc.h"
#include "hal.h"
#include "proto.h"

enum {
	AROUND = 4,					/* id, seq, crc */
	RAW_MAX = PROTO_MAX_PAYLOAD + AROUND,
	STUFFED_MAX = PROTO_MAX_FRAME - 1,		/* without the zero byte */
};

static uint8_t buf[STUFFED_MAX];
static uint8_t len;
static bool over;	/* what came since the last zero is longer than a frame */

void link_init(void)
{
	len = 0;
	over = false;
}

/* Decodes in place. Returns the length, 0 for what is no COBS. */
static uint8_t unstuff(uint8_t *p, uint8_t n)
{
	uint8_t in = 0, out = 0;

	while (in < n) {
		uint8_t code = p[in++];
		if (code - 1 > n - in)
			return 0;
		while (--code)
			p[out++] = p[in++];
		if (in < n)
			p[out++] = 0;
	}
	return out;
}

static void frame(uint8_t n)
{
	n = unstuff(buf, n);
	if (n < AROUND || n > RAW_MAX || crc16(buf, (uint8_t)(n - 2)) != get16(buf + n - 2))
		return;
	link_on_frame(buf[0], buf[1], buf + 2, (uint8_t)(n - AROUND));
}

void link_rx(uint8_t byte)
{
	if (byte) {
		if (len < STUFFED_MAX)
			buf[len++] = byte;
		else
			over = true;
		return;
	}
	if (len && !over)
		frame(len);
	link_init();
}

void link_send(uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n)
{
	uint8_t raw[RAW_MAX], k = 0;

	/* COBS adds one byte, the zero at the end is another. */
	if (n > PROTO_MAX_PAYLOAD || hal_tx_room() < n + AROUND + 2)
		return;
	raw[k++] = kind;
	raw[k++] = seq;
	while (n--)
		raw[k++] = *payload++;
	put16(raw + k, crc16(raw, k));
	k += 2;

	/* A frame is shorter than 254 bytes, so no run needs the code 0xff. */
	for (uint8_t start = 0, i = 0; i <= k; i++) {
		if (i < k && raw[i])
			continue;
		hal_tx((uint8_t)(i - start + 1));
		for (; start < i; start++)
			hal_tx(raw[start]);
		start++;
	}
	hal_tx(0);
}
