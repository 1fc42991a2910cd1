/* libFuzzer: a new board lives through whatever the input tells. */
#include "life.h"

#include "../test/host.h"

#include <stddef.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	new_board();
	life_go(data, size);
	return 0;
}
