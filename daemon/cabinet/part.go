package cabinet

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"yaoju/daemon/machine/vending"
	"yaoju/daemon/port"
	"yaoju/daemon/scan"
)

const (
	// usualPatience is how long a line may be silent before the cabinet asks who is
	// there: a board that resets, or a plug that bounced, is back in less. It is also the
	// pause between two such questions: a person who has exchanged two plugs does not
	// wait long for the next word.
	usualPatience = 10 * time.Second

	// doubtPauses is how many times as long that pause is on the line of a barcode
	// scanner, which is asked only because somebody else is missing, and cannot scan
	// meanwhile.
	doubtPauses = 6

	// nonsense is how many inputs in a row a scanner may send that are no code, before
	// its line is doubted: a scratched carton gives one or two.
	nonsense = 5

	// babble is how many bytes it may send without a code among them: more than the
	// longest one has, with what is set around it.
	babble = scan.MaxCode + 64
)

// part is one thing that is fitted. Its driver opens its line through it, so whoever
// is there is asked only while the driver has no line.
type part struct {
	key  string // in the configuration file
	name string // of a scanner or a staff card reader there
	what string // in words
	kind who    // who is to answer on its line; nobody if that cannot be asked
	path string // its device, or what else it hangs on
	baud int

	patience time.Duration

	mu   sync.Mutex
	now  condition // guarded by mu
	line io.Closer // guarded by mu: that its driver had last; nil: none
}

// condition is how a part is.
type condition struct {
	up      bool
	why     string    // what its driver, or opening it, says
	refused int       // what its driver refused
	sound   int       // refused when it last made sense
	spoke   bool      // it sent a code since its line was opened
	heard   int       // bytes that a scanner sent since then, or since its line was opened
	silent  time.Time // since when its line is open and it is not up; zero: it is up, or not there
	asked   time.Time // when somebody last asked who is there; zero: never since it was up
	found   finding   // who that was
	doubted bool      // its line was taken back, to ask
}

// fitted lists what the configuration names.
func fitted(c Config) []*part {
	board := &part{key: "board", what: c.Board.what(), path: c.Board.Path}
	switch c.Board.Kind {
	case KindOwn:
		board.kind, board.baud = motorBoard, c.Board.Baud
	case KindVending:
		board.kind, board.baud = vendingBoard, vending.Baud
	default:
		board.path = "GPIO"
	}
	all := []*part{board, {key: "reader", what: readerWords, kind: cardReader, path: c.Reader.Path, baud: c.Reader.Baud}}
	for _, s := range c.Scanners {
		p := &part{key: "scanner", name: s.Name, what: scannerWords(s.Name), kind: barcodeScanner, path: s.Path, baud: s.Baud}
		if s.Keyboard != "" {
			p.kind, p.path = nobody, s.Keyboard
		}
		all = append(all, p)
	}
	for _, b := range c.Badges {
		p := &part{key: "badge", name: b.Name, what: badgeWords(b.Name), kind: badgeReader, path: b.PN532, baud: scan.BaudPN532}
		if b.PN532 == "" {
			p.kind, p.path = nobody, fmt.Sprintf("%s, lines %d and %d", b.Wiegand.Chip, b.Wiegand.D0, b.Wiegand.D1)
		}
		all = append(all, p)
	}
	if c.Climate.fitted {
		all = append(all, &part{key: "climate", what: "climate sensor", path: fmt.Sprintf("/dev/i2c-%d, address %#x", c.Climate.Bus, c.Climate.Address)})
	}
	return all
}

// The parts in words. A technician finds the name in the configuration.
const readerWords = "card reader"

func scannerWords(name string) string { return "scanner " + name }
func badgeWords(name string) string   { return "staff card reader " + name }

// openKeyboard opens a scanner that plays a keyboard.
func (p *part) openKeyboard(context.Context) (io.ReadWriteCloser, error) {
	return scan.OpenKeyboard(p.path)
}

// dial opens the part's line for its driver. After a long silence it asks first who
// is there. A driver that asks gets the line whoever that is: it is the first to know
// when it is right again. A barcode scanner's driver only listens, so while another
// device answers it gets none.
func (p *part) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	if p.due(time.Now()) {
		f, err := ask(ctx, p)
		if err != nil {
			p.absent(err)
			return nil, err
		}
		p.met(f, time.Now())
		if p.kind == barcodeScanner && f.who != nobody && f.who != barcodeScanner {
			return nil, fmt.Errorf("open %s: %s answers there", p.path, f.who)
		}
	}
	line, err := port.Open(p.path, p.baud)
	if err != nil {
		p.absent(err)
		return nil, err
	}
	p.took(line, time.Now())
	if p.kind == barcodeScanner {
		return counted{line, p}, nil
	}
	return line, nil
}

// counted is the line of a scanner, of which is noted how much comes.
type counted struct {
	io.ReadWriteCloser
	p *part
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(b)
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.now.heard += n
	return n, err
}

// due reports whether it is time to ask who is on the line.
func (p *part) due(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.now
	if p.kind == barcodeScanner {
		return c.doubted || c.found.who != nobody && c.found.who != barcodeScanner
	}
	return !c.up && !c.silent.IsZero() && now.Sub(c.silent) >= p.patience && now.Sub(c.asked) >= p.patience
}

// absent notes that the line cannot be opened. Who was on it is another question when
// it is back.
func (p *part) absent(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = condition{why: err.Error(), refused: p.now.refused, sound: p.now.refused}
	p.line = nil
}

// met notes who answered.
func (p *part) met(f finding, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.found, p.now.asked, p.now.doubted = f, now, false
}

// took notes that the driver has the line.
func (p *part) took(line io.Closer, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line, p.now.why = line, ""
	p.now.spoke, p.now.heard = false, 0
	if p.now.silent.IsZero() {
		p.now.silent = now
	}
}

// is notes what the driver says.
func (p *part) is(up bool, why string, refused int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.up, p.now.refused = up, refused
	if why != "" {
		p.now.why = why
	}
	if up && p.kind != barcodeScanner { // an open line proves no scanner
		p.now.why, p.now.silent, p.now.asked, p.now.found = "", time.Time{}, time.Time{}, finding{}
	}
}

// made notes that a code or a badge came.
func (p *part) made() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.spoke, p.now.heard, p.now.sound, p.now.found = true, 0, p.now.refused, finding{who: barcodeScanner, baud: p.baud}
}

// doubt takes the line of a barcode scanner back, so that dial asks who is there; not
// too often, and not if it has shown to be one. missing says that the device of
// another part answers nowhere.
func (p *part) doubt(missing bool, now time.Time) {
	p.mu.Lock()
	line := p.line
	ask := p.kind == barcodeScanner && line != nil && !p.now.doubted && now.Sub(p.now.asked) >= doubtPauses*p.patience && now.Sub(p.now.silent) >= p.patience &&
		(missing && !p.now.spoke || p.now.refused-p.now.sound >= nonsense || p.now.heard > babble)
	if ask {
		p.now.doubted, p.now.sound, p.line = true, p.now.refused, nil
	}
	p.mu.Unlock()
	if ask {
		line.Close() // its driver gets an error and dials again
	}
}

func (p *part) condition() condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}
