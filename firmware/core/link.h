/* Frames on the line: COBS(id seq payload crc16) 00. It owns bytes; it knows
 * nothing of what a message means. */
#ifndef LINK_H
#define LINK_H

#include <stdint.h>

void link_init(void);
void link_rx(uint8_t byte);	/* calls link_on_frame for each good frame */

/* link_send drops the frame if the line has no room for all of it: the host asks again. */
void link_send(uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n);

/* Provided by who uses the link. payload is good until it returns. */
void link_on_frame(uint8_t kind, uint8_t seq, const uint8_t *payload, uint8_t n);

#endif
