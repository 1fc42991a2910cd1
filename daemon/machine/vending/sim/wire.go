package sim

import (
	"math/rand/v2"
	"slices"
)

// The commands the board knows, as the vendors number them.
const (
	cmdCheck     = 0x01
	cmdSelection = 0x02
	cmdReport    = 0x04
	cmdChoice    = 0x05
	cmdDrive     = 0x06
	cmdRestock   = 0x17
	cmdMoney     = 0x21
	cmdSync      = 0x31
	cmdPoll      = 0x41
	cmdAck       = 0x42
	cmdStatus    = 0x51
	cmdStatusIs  = 0x52
	cmdLift      = 0x53
	cmdLiftIs    = 0x54
	cmdMenu      = 0x70
	cmdMenuIs    = 0x71
)

// frame is a message as it goes over the wire.
func frame(cmd byte, body ...byte) []byte {
	b := append([]byte{0xFA, 0xFB, cmd, byte(len(body))}, body...)
	var x byte
	for _, c := range b {
		x ^= c
	}
	return append(b, x)
}

// parse returns the first good frame in b, wherever it begins.
func parse(b []byte) (cmd byte, body []byte, ok bool) {
	for i := range b {
		rest := b[i:]
		if len(rest) < 5 || rest[0] != 0xFA || rest[1] != 0xFB || len(rest) < 5+int(rest[3]) {
			continue
		}
		n := 4 + int(rest[3])
		if slices.Equal(rest[:n+1], frame(rest[2], rest[4:n]...)) {
			return rest[2], rest[4:n], true
		}
	}
	return 0, nil, false
}

// Spoil is what happens to what is said, each with a probability of 0 to 1.
type Spoil struct {
	Lose   float64 // it is gone
	Flip   float64 // one bit is another
	Repeat float64 // it comes twice
	Half   float64 // its end is gone
	Noise  float64 // bytes that mean nothing come before it
}

func (s Spoil) spoil(r *rand.Rand, b []byte) []byte {
	if s == (Spoil{}) || len(b) == 0 {
		return b
	}
	if r.Float64() < s.Lose {
		return nil
	}
	out := slices.Clone(b)
	if r.Float64() < s.Flip {
		out[r.IntN(len(out))] ^= 1 << r.IntN(8)
	}
	if r.Float64() < s.Half {
		out = out[:r.IntN(len(out))]
	}
	if r.Float64() < s.Repeat {
		out = append(out, out...)
	}
	if r.Float64() < s.Noise {
		noise := []byte{0xFA, 0xFB, 0x04, 0xFA, 0xFB, byte(r.IntN(256)), byte(r.IntN(256))}
		out = append(noise[r.IntN(len(noise)):], out...)
	}
	return out
}
