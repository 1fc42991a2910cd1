package card

import (
	"context"
	"io"
)

// probeTries is how often a probe asks: a byte that was left on the line may bend
// the first answer.
const probeTries = 2

// Probe reports whether a residents' card reader answers on line, at baud bits per
// second, and closes line. It asks for the reader's self-test, never for a card.
func Probe(ctx context.Context, line io.ReadWriteCloser, baud int) bool {
	d := open(line, baud)
	defer d.close()
	for range probeTries {
		if _, err := d.ask(ctx, cmdSelfTest); err == nil {
			return true // whatever it says of itself, it speaks as one
		}
	}
	return false
}
