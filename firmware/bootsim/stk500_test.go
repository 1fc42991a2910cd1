package bootsim

import "testing"

// Whatever comes, every answer is a whole message, and nothing reaches the bootloader.
func FuzzTake(f *testing.F) {
	f.Add([]byte("\x1b\x01\x00\x01\x0e\x01\x14"))
	f.Add([]byte("\x1b\x01\x00\x01\x0e\x11\x04\x1b\x02\x00\x08\x0e\x1d\x04\x04\x00\x30\x00\x00\x00\x0a"))
	f.Add([]byte("\x1b\x03\x00\x05\x0e\x06\x80\x01\xf0\x00\x62\x1b\x03\x00\x0c\x0e\x13\x00\x02\x00\x00\x00\x00\x00\x00\x00\xaa\xbb\x18"))
	f.Add([]byte("noise\x1b\x1b\x03\x00\x05\x0f\x1b\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := New(Options{})
		s := session{c: c}
		for _, x := range in {
			answer, _ := s.take(x)
			if len(answer) == 0 {
				continue
			}
			sum := byte(0)
			for _, b := range answer {
				sum ^= b
			}
			if sum != 0 || len(answer) != overhead+int(answer[2])<<8+int(answer[3]) || answer[0] != start || answer[4] != token {
				t.Fatalf("answer % x", answer)
			}
		}
		for at, x := range c.Flash()[Loader:] {
			if x != 0xff {
				t.Fatalf("the bootloader was changed at 0x%x", Loader+at)
			}
		}
	})
}
