// Package sim is an off-the-shelf vending board in software, the twin of those
// that speak "FA FB": it polls, reports, repeats itself and forgets as they do,
// and it drives a motor again for every drive it hears, as they may.
//
// It owns the wire as the vendors publish it, written anew and not shared with the
// driver, and the truth about turns and pieces, which tests compare with what the
// daemon believes. It knows nothing of the daemon. All its time is package time's.
package sim

import (
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"yaoju/protocol"
)

// Options say what kind of board it is. The zero value is a usual one, without stock.
type Options struct {
	Turn time.Duration // one turn of a spiral; 0 is 2.5 s
	ID   string        // the machine id set in it, ten digits; empty is ten zeros
	Pack byte          // PackNO before the first
	// Reply is how long it listens for an answer; 0 is 100 ms. A test in real time
	// gives a busy machine more.
	Reply time.Duration
	Rand  *rand.Rand // for chances and noise; nil is a fixed seed
}

const (
	usualTurn   = 2500 * time.Millisecond
	replyLimit  = 100 * time.Millisecond
	resends     = 5
	dropWindow  = 500 * time.Millisecond // after the turn
	keypadPause = 2 * time.Second        // from the choice to the motor
	frameLimit  = time.Second            // five polls: what is told to nobody for so long is given up
)

// Cabinet is what is around the board. The zero value is sound, with sensors at
// 0 degrees and 0 percent.
type Cabinet struct {
	DoorOpen      bool
	Celsius       int8
	Humidity      byte          // percent; 0xAA is no sensor
	NoHumidity    bool          // an older board: its condition has no humidities at all
	PublishedForm bool          // the condition as in the published table, one byte shorter than boards send it
	Lift          byte          // condition of the elevator
	Poll          time.Duration // between polls; 0 is 200 ms
	LatePolls     float64       // chance of a poll that comes 1 to 2 s late
	ReportLength  byte          // 3, 4 or 5; 0 is 4
	NoCheck       bool          // takes a check and does not answer
	NoStatus      bool          // takes the question for its condition and does not answer
	SamePack      bool          // never counts PackNO on
	ToHost        Spoil
	ToBoard       Spoil
}

// Faults are what is wrong with one selection.
type Faults struct {
	Check       byte // answer to a check; 0 is 01, normal
	Lost        bool // the next drive is not heard
	NoAck       bool // a drive is carried out and not acknowledged
	Idle        bool // a drive is acknowledged and not carried out
	NoStart     bool // "dispensing" is not reported
	NoEnd       bool // the end is not reported
	Twice       bool // the end is reported twice, under one PackNO
	TwiceAnew   bool // the end is reported again 1.5 s later, with a PackNO of its own
	Hang        bool // a turn drops nothing
	Jam         bool // the motor is held fast
	NoMotor     bool
	Runaway     bool // the motor turns twice and drops two, then gives up
	LiftFails   bool // the piece stays in the elevator
	Terminated  bool // the board gives up before it turns
	OddStatus   byte // reported at the end in place of what was; 0 is none
	ReportsLate bool // the end is reported a minute late
}

// VMC is a vending board and its cabinet. Its methods may be called from any goroutine.
type VMC struct {
	opt Options

	mu      sync.Mutex
	cabinet Cabinet // guarded by mu, as is all that follows
	faults  [protocol.Slots + 1]Faults
	pieces  [protocol.Slots + 1]int
	turns   [protocol.Slots + 1]int // motor starts
	drives  [protocol.Slots + 1]int // of those, by order of the computer
	orders  [protocol.Slots + 1]int // drives heard, carried out or not
	fallen  [protocol.Slots + 1]int
	given   [protocol.Slots + 1]int // of those, by order of the computer
	cleared int

	motion  *motion
	coming  []telling // to be told at its time
	outbox  []telling // to be told now, oldest first
	tries   int       // of the oldest
	pack    byte
	heard   byte // PackNO of the last command; 0 is none
	off     time.Time
	keyed   protocol.Slot // chosen at the keypad, not yet driven
	keyedAt time.Time
	spoke   time.Time // the board's last turn on a line
	broken  []string
}

// motion is a motor that turns.
type motion struct {
	slot   protocol.Slot
	driven bool        // by the computer, not at the keypad
	fallAt []time.Time // pieces that will fall
	endAt  time.Time
}

// telling is something to be told: a command and its text, without PackNO.
type telling struct {
	at     time.Time
	cmd    byte
	text   []byte
	repeat bool // with the PackNO of the one before
}

// New returns a board that has power.
func New(opt Options) *VMC {
	if opt.Turn == 0 {
		opt.Turn = usualTurn
	}
	if opt.Reply == 0 {
		opt.Reply = replyLimit
	}
	if opt.ID == "" {
		opt.ID = "0000000000"
	}
	if opt.Rand == nil {
		opt.Rand = rand.New(rand.NewPCG(1, 1))
	}
	return &VMC{opt: opt, pack: opt.Pack}
}

// Serve speaks on line until ctx ends or the line does, and closes it. The board
// goes on without a line; it may be served again, on one line at a time.
func (v *VMC) Serve(ctx context.Context, line io.ReadWriteCloser) error {
	read, stop, ended := make(chan []byte, 16), make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(read)
		ended <- listen(line, read, stop)
	}()
	defer context.AfterFunc(ctx, func() { line.Close() })()
	err := v.master(ctx, line, read)
	close(stop)
	line.Close() // frees the listener
	if also := <-ended; err == nil {
		err = also
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listen passes on what it reads, until the line ends.
func listen(line io.Reader, read chan<- []byte, stop <-chan struct{}) error {
	for {
		var chunk [256]byte
		n, err := line.Read(chunk[:])
		if err != nil {
			return err
		}
		select {
		case read <- slices.Clone(chunk[:n]):
		case <-stop:
			return nil
		}
	}
}

// master takes the line's turns: it speaks, and listens for 100 ms. It returns nil
// when nothing more will be read.
func (v *VMC) master(ctx context.Context, line io.Writer, read <-chan []byte) error {
	for {
		pause, say, poll := v.turn()
		next := time.NewTimer(pause)
		if say != nil {
			if _, err := line.Write(v.spoil(say, true)); err != nil {
				return err
			}
			cmd, body, gone := v.reply(read)
			if gone {
				return nil
			}
			if v.hear(cmd, body, poll) {
				if _, err := line.Write(v.spoil(frame(cmdAck), true)); err != nil {
					return err
				}
			}
		}
		for waiting := true; waiting; {
			select {
			case <-next.C:
				waiting = false
			case _, ok := <-read: // nobody listens now
				if !ok {
					return nil
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// reply listens for one frame; cmd 0 is none in time, or none that checks.
func (v *VMC) reply(read <-chan []byte) (cmd byte, body []byte, gone bool) {
	limit := time.NewTimer(v.opt.Reply)
	defer limit.Stop()
	var got []byte
	for {
		select {
		case <-limit.C:
			return 0, nil, false
		case b, ok := <-read:
			if !ok {
				return 0, nil, true
			}
			got = append(got, v.spoil(b, false)...)
			if cmd, body, ok := parse(got); ok {
				return cmd, body, false
			}
		}
	}
}
