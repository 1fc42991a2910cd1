/* From light and dark to pieces. Called once a millisecond by the hal's tick. */
#ifndef BEAM_H
#define BEAM_H

#include <stdbool.h>
#include <stdint.h>

/* A box that falls half a metre crosses a beam of 20 mm in about 6 ms. A gap in a
 * box is not the gap between two: those fall 40 ms apart. */
enum { BEAM_DARK_MS = 2, BEAM_LIGHT_MS = 10 };

struct beam {
	uint8_t dark, light;	/* milliseconds so far, up to their limits */
	bool broken;		/* a piece is passing, and counted */
};

/* beam_step takes one sample; true once for each piece. */
static inline bool beam_step(struct beam *b, bool dark)
{
	if (dark) {
		b->light = 0;
		if (b->dark < BEAM_DARK_MS)
			b->dark++;
		if (b->dark < BEAM_DARK_MS || b->broken)
			return false;
		b->broken = true;
		return true;
	}
	b->dark = 0;
	if (b->light < BEAM_LIGHT_MS)
		b->light++;
	if (b->light == BEAM_LIGHT_MS)
		b->broken = false;
	return false;
}

#endif
