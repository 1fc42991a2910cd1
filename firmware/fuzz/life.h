/* A life of a board, told by bytes: questions, noise, time, faults and power cuts. */
#ifndef LIFE_H
#define LIFE_H

#include <stddef.h>
#include <stdint.h>

/* life_go lives through data, on the board as it stands in fake.h, and aborts when a
 * rule is broken; so do the fake board and the host beneath it. */
void life_go(const uint8_t *data, size_t size);

#endif
