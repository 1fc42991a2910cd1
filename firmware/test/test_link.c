/* The line: whatever comes, a good frame is answered and nothing else is. */
#include "check.h"
#include "host.h"

#include "../core/crc.h"
#include "../core/link.h"

#include <string.h>

/* The board's answers to these bytes, a zero before and after them. */
static uint8_t answers(const uint8_t *p, uint16_t n)
{
	static const uint8_t zero;
	struct answer a;
	uint8_t count = 0;

	fake_send(&zero, 1);
	fake_send(p, n);
	fake_send(&zero, 1);
	fake_tick(ANSWER_MS);
	while (host_answer(&a))
		count++;
	return count;
}

static void checksums(void)
{
	static const uint8_t digits[] = "123456789", sensor[] = { 0xbe, 0xef };

	EQ(crc16(digits, 9), 0x6f91);
	EQ(crc32(digits, 9), 0xcbf43926);
	EQ(crc8(sensor, 2), 0x92);
}

/* A frame with one bit flipped, one byte lost or one byte too many says nothing. */
static void damage(void)
{
	uint8_t frame[64], bent[66], n = host_frame(frame, MSG_LIGHT, 7, (const uint8_t *)"\x37", 1);

	n--;
	for (uint16_t bit = 0; bit < n * 8; bit++) {
		memcpy(bent, frame, n);
		bent[bit / 8] = (uint8_t)(bent[bit / 8] ^ 1u << bit % 8);
		EQ(answers(bent, n), 0);
	}
	for (uint8_t at = 0; at < n; at++) {
		memcpy(bent, frame, at);
		memcpy(bent + at, frame + at + 1, (size_t)(n - at - 1));
		EQ(answers(bent, (uint16_t)(n - 1)), 0);
		memcpy(bent, frame, at);
		bent[at] = 0x55;
		memcpy(bent + at + 1, frame + at, (size_t)(n - at));
		EQ(answers(bent, (uint16_t)(n + 1)), 0);
		EQ(answers(frame, at), 0);
	}
	EQ(fake.light, LIM_DIM_PERCENT);
	EQ(answers(frame, n), 1);
	EQ(fake.light, 0x37);
}

static void lengths(void)
{
	uint8_t payload[200] = { 0 }, frame[256], n;

	for (uint8_t len = 0; len <= PROTO_MAX_PAYLOAD; len++) {
		struct answer a = ask(0x70, payload, len);

		EQ(a.kind, MSG_NAK);
		EQ(a.p[MSG_NAK_REASON], NAK_BAD_MSG);
	}
	memset(payload, 0x33, sizeof payload);
	for (uint8_t len = PROTO_MAX_PAYLOAD + 1; len < sizeof payload; len++) {
		n = host_frame(frame, MSG_PING, 1, payload, len);
		EQ(answers(frame, (uint16_t)(n - 1)), 0);
	}
	EQ(ask(0x70, payload, PROTO_MAX_PAYLOAD).kind, MSG_NAK);
	n = host_frame(frame, 0x70, 1, payload, PROTO_MAX_PAYLOAD);	/* the longest, and then more */
	EQ(answers(frame, (uint16_t)(n - 1)), 1);
	frame[n - 1] = 0x33;
	EQ(answers(frame, n), 0);
	memset(frame, 7, sizeof frame);
	for (uint16_t len = 0; len < 4; len++)
		EQ(answers(frame, len), 0);
	for (int i = 0; i < 20; i++)
		EQ(answers(frame, sizeof frame), 0);
	CHECK(ping());
}

/* Bytes may come one by one, and noise before a zero costs nobody an answer. */
static void pieces(void)
{
	uint8_t frame[64], n = host_frame(frame, MSG_PING, 9, NULL, 0);
	struct answer a;

	EQ(answers((const uint8_t *)"\x55\xaa\x12", 3), 0);
	for (uint8_t i = 0; i < n; i++) {
		CHECK(!host_answer(&a));
		fake_send(frame + i, 1);
		fake_tick(3);
	}
	CHECK(host_answer(&a));
	EQ(a.kind, MSG_PONG);
	EQ(a.seq, 9);
	CHECK(!host_answer(&a));
}

/* An answer that does not fit on the line is not sent, in whole or in part, and
 * the host that asks again has one. */
static void no_room(void)
{
	struct answer a;
	uint8_t frame[64], n = host_frame(frame, MSG_STATUS, 3, NULL, 0);

	fake.tx_stopped = true;
	for (int i = 0; i < 8; i++)
		fake_send(frame, n);
	fake_tick(20);
	fake.tx_stopped = false;
	fake_tick(20);
	CHECK(host_answer(&a));
	EQ(a.kind, MSG_STATUS_IS);
	CHECK(!host_answer(&a));
	EQ(status().kind, MSG_STATUS_IS);
	link_send(MSG_NAK, 0, frame, PROTO_MAX_PAYLOAD + 1);
	fake_tick(5);
	EQ(fake.out_n, 0);
}

void test_link(void)
{
	checksums();
	new_board();
	damage();
	lengths();
	pieces();
	no_room();
}
