package vending

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

const (
	// freshLimit is how old a poll may be to be answered: the board listens for
	// 100 ms, and the answer takes up to 3 ms on the wire.
	freshLimit = 60 * time.Millisecond

	// gapLimit ends a frame that was begun: its bytes follow each other within
	// 0.2 ms, and a USB adapter holds them back for 16 ms.
	gapLimit = 50 * time.Millisecond

	// silenceLimit is longer than the longest pause between polls that a board can
	// be set to, 2 s.
	silenceLimit = 3 * time.Second

	resends = 5 // of one command, as the protocol has it

	// answerLimit is how long an answer may follow its acknowledgement: boards send
	// it in one of the next polls.
	answerLimit = time.Second

	// statusEvery is how often the door is asked after: a poll in five.
	statusEvery = time.Second

	// statusLimit is how long all else goes before it; more and a vend would start
	// on an old word about the door.
	statusLimit = 3 * time.Second

	// missLimit is how many conditions in a row may stay untold, 6 s with resends.
	missLimit = 5

	// repeatLimit is how long a frame may be a repeat of the one before: five
	// resends of a board that polls every 2 s.
	repeatLimit = 10 * time.Second

	batchesLength = 8  // more than a board sends before it waits for us
	notesLength   = 32 // a burst of noise; beyond that nobody reads them
)

var (
	errSilent = errors.New("vending board does not answer")
	errLine   = errors.New("line to the vending board")
)

// ask is a command of somebody, on its way to the owner of the line.
type ask struct {
	ctx  context.Context // ended: nobody waits any more, and nothing may be sent
	cmd  command
	text []byte
	want command    // the frame that answers
	done chan error // holds one: the owner never waits
}

// sent is a command that is not done with: unacknowledged, or without its answer.
// Drives are never among them, because they are not sent again.
type sent struct {
	frame  []byte
	cmd    command
	want   command // the frame that answers; 0: the acknowledgement is all
	times  int
	acked  bool
	at     time.Time // when it was sent, or acknowledged
	vend   *vend     // that is checked with it
	caller *ask
}

// batch is what one read gave. Only its last frame can still be answered: after
// the others the board has gone on.
type batch struct {
	frames []frame
	at     time.Time // when it was read; zero: long before it could be understood
}

// note is a line of the log on its way there.
type note struct {
	level slog.Level
	text  string
	args  []any
}

// link is one life of the line, from dial to close. What it does is done by one
// goroutine that waits for nothing but the board: not for the log, and for no
// caller.
type link struct {
	b       *Board
	line    io.ReadWriteCloser
	batches chan batch
	dead    chan error
	notes   chan note

	out     *sent
	met     bool      // the board has told its condition in this session
	asked   time.Time // when its condition was last asked for
	lift    bool      // the elevator's turn to be asked after
	misses  int
	syncDue bool // the board wants our sync
	cancel  bool // a keypad choice is to be cancelled
}

// serve owns line: it alone writes to it.
func (b *Board) serve(ctx context.Context, line io.ReadWriteCloser) error {
	l := &link{b: b, line: line, batches: make(chan batch, batchesLength), dead: make(chan error, 1), notes: make(chan note, notesLength)}
	stop, read, told := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		l.read(stop)
	}()
	go func() {
		defer close(told)
		l.tell()
	}()
	defer func() {
		b.down()
		l.done(fmt.Errorf("%w: closed", errLine))
		close(stop)
		line.Close() // frees the reader; the line is given up, so its error tells nothing
		<-read
		close(l.notes)
		<-told
	}()
	return l.run(ctx)
}

// read passes frames on until the line is closed.
func (l *link) read(stop <-chan struct{}) {
	var d decoder
	var chunk [256]byte
	last := time.Now()
	for {
		n, err := l.line.Read(chunk[:])
		if err != nil {
			l.dead <- err
			return
		}
		now := time.Now()
		if now.Sub(last) > gapLimit {
			// A poll among these is of the turn before. To answer it now would
			// acknowledge whatever the board says in this one.
			l.pass(batch{frames: d.rest()}, stop)
		}
		last = now
		l.pass(batch{d.feed(chunk[:n]), now}, stop)
	}
}

// pass hands a batch to the owner of the line.
func (l *link) pass(b batch, stop <-chan struct{}) {
	if len(b.frames) == 0 {
		return
	}
	select {
	case l.batches <- b:
	case <-stop:
	}
}

// tell writes the log.
func (l *link) tell() {
	for n := range l.notes {
		l.b.log.Log(context.Background(), n.level, n.text, n.args...)
	}
}

// note has something logged, unless so much is waiting that nobody would read it.
func (l *link) note(level slog.Level, text string, args ...any) {
	select {
	case l.notes <- note{level, text, args}:
	default:
	}
}

func (l *link) run(ctx context.Context) error {
	silence := time.NewTimer(silenceLimit)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.dead:
			return fmt.Errorf("%w: %w", errLine, err)
		case <-silence.C:
			l.b.down()
			l.met = false
			if !l.b.moving() {
				return fmt.Errorf("%w: no poll for %v", errSilent, silenceLimit)
			}
			silence.Reset(silenceLimit) // a fresh line would throw away the report we wait for
		case got := <-l.batches:
			silence.Reset(silenceLimit)
			for i, f := range got.frames {
				fresh := i == len(got.frames)-1 && len(l.batches) == 0 && time.Since(got.at) < freshLimit
				if err := l.hear(f, fresh); err != nil {
					return err
				}
			}
		}
	}
}

// hear acts on one frame. fresh says that the board still listens for an answer.
func (l *link) hear(f frame, fresh bool) error {
	switch {
	case f.cmd == cmdPoll && fresh:
		return l.answer()
	case f.cmd == cmdPoll:
		return nil // it would come too late, and meet what the board says next
	case f.cmd == cmdAck:
		if l.out != nil && !l.out.acked {
			l.out.acked, l.out.at = true, time.Now()
			if l.out.want == 0 {
				l.done(nil)
			}
		}
		return nil
	}
	if !f.sound() {
		l.note(slog.LevelWarn, "frame that is in no document", "command", f.cmd.String(), "length", len(f.body))
		return nil
	}
	if fresh {
		if err := l.write(appendFrame(nil, cmdAck)); err != nil {
			return err
		}
	}
	if !l.repeated(f) {
		l.news(f)
	}
	return nil
}

// repeated reports whether the board says f again because our acknowledgement was
// lost. Answers are never repeats: some boards count no PackNO for them.
func (l *link) repeated(f frame) bool {
	switch f.cmd {
	case cmdSelection, cmdStatusIs, cmdLiftIs, cmdMenuIs:
		return false
	}
	b, now := l.b, time.Now()
	again := f.cmd == b.lastNews.cmd && string(f.body) == string(b.lastNews.body) && now.Sub(b.newsAt) < repeatLimit
	b.lastNews, b.newsAt = f, now
	return again
}

// news acts on a sound frame that was not heard before.
func (l *link) news(f frame) {
	switch f.cmd {
	case cmdReport:
		r, _ := parseReport(f.body)
		if tell := l.b.heardReport(r); tell != "" {
			l.note(slog.LevelWarn, tell, "slot", r.selection, "status", r.status)
		}
	case cmdKeypad:
		if selection, _ := parseKeypad(f.body); selection != 0 {
			l.cancel = l.b.heardKeypad(selection)
			l.note(slog.LevelWarn, "chosen at the board's keypad", "slot", selection)
		}
	case cmdSync:
		l.syncDue, l.met = true, false
		l.note(slog.LevelInfo, "board began anew")
	case cmdRestock:
		l.note(slog.LevelWarn, "board's restock button pressed; stock is not kept there")
	case cmdMoney:
		l.note(slog.LevelWarn, "board took money; supplies are free")
	case cmdStatusIs:
		c, _ := parseCondition(f.body)
		l.b.heardCondition(c, !l.met)
		l.met, l.misses = true, 0
		l.answered(f)
	case cmdLiftIs:
		l.b.heardLift(liftFault(f.body[1]))
		l.answered(f)
	case cmdSelection, cmdMenuIs:
		l.answered(f)
	}
}

// answered is done with the command that f answers, if it is the one that is out.
func (l *link) answered(f frame) {
	o := l.out
	if o == nil || o.want != f.cmd {
		return
	}
	if o.vend != nil {
		if int(f.body[2])<<8|int(f.body[3]) != int(o.vend.slot) {
			return // of another selection
		}
		l.b.checked(o.vend, refusal(f.body[1]))
	}
	if o.caller != nil && string(f.body[1:3]) != string(o.caller.text) {
		return // of another menu
	}
	l.done(nil)
}

// done is done with the command that is out, whatever came of it.
func (l *link) done(err error) {
	o := l.out
	l.out = nil
	if o == nil {
		return
	}
	if o.vend != nil {
		l.b.checked(o.vend, 0) // where no answer came this goes on: not every board has the check
	}
	if o.caller != nil {
		o.caller.done <- err
	}
}

// answer answers a poll: with one command, or with an acknowledgement.
func (l *link) answer() error {
	if o := l.out; o != nil {
		switch {
		case !o.acked && o.times <= resends:
			o.times++
			return l.write(o.frame) // with its number: the board may have had it
		case o.acked && time.Since(o.at) < answerLimit:
			return l.write(appendFrame(nil, cmdAck))
		}
		if o.cmd == cmdStatus {
			if l.misses++; l.misses == missLimit {
				return fmt.Errorf("%w: does not tell its condition", errSilent)
			}
		}
		l.done(fmt.Errorf("%w: %v sent %d times", errSilent, o.cmd, o.times))
	}
	if sent, err := l.speak(); sent || err != nil {
		return err
	}
	return l.write(appendFrame(nil, cmdAck))
}

// speak sends the most urgent command, if there is any.
func (l *link) speak() (bool, error) {
	moving, since := l.b.moving(), time.Since(l.asked)
	switch {
	case l.syncDue:
		l.syncDue = false
		return true, l.send(&sent{cmd: cmdSync})
	case moving:
		return false, nil // the board shall have nothing else to think of
	case l.cancel:
		l.cancel = false
		return true, l.send(&sent{cmd: cmdKeypad}, 0, 0)
	case !l.met || since >= statusLimit:
		return true, l.ask()
	}
	if v := l.b.waiting(); v != nil {
		if sent, err := l.move(v); sent || err != nil {
			return sent, err
		}
	}
	select {
	case a := <-l.b.asks:
		if a.ctx.Err() == nil { // its caller still waits
			return true, l.send(&sent{cmd: a.cmd, want: a.want, caller: a}, a.text...)
		}
	default:
	}
	if since >= statusEvery {
		return true, l.ask()
	}
	return false, nil
}

// ask asks for the machine's condition, and in turn with it for the elevator's.
func (l *link) ask() error {
	l.asked = time.Now()
	if l.lift = l.b.opt.Elevator && l.met && !l.lift; l.lift {
		return l.send(&sent{cmd: cmdLift, want: cmdLiftIs})
	}
	return l.send(&sent{cmd: cmdStatus, want: cmdStatusIs})
}

// move brings v one step on: first the check, which may be repeated, then the
// drive, which may not.
func (l *link) move(v *vend) (bool, error) {
	if l.b.asking(v) {
		// The published length counts one byte more than the published fields; boards
		// take a zero there.
		return true, l.send(&sent{cmd: cmdCheck, want: cmdSelection, vend: v}, 0, byte(v.slot), 0)
	}
	if !l.b.commit(v) {
		return false, nil
	}
	return true, l.write(appendFrame(nil, cmdDrive, l.number(), flag(l.b.opt.DropSensor), flag(l.b.opt.Elevator), 0, byte(v.slot)))
}

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// send sends a command that stays out until it is done with.
func (l *link) send(o *sent, text ...byte) error {
	o.frame = appendFrame(nil, o.cmd, append([]byte{l.number()}, text...)...)
	o.times, o.at = 1, time.Now()
	l.out = o
	return l.write(o.frame)
}

// number is the PackNO of a new command: 1 to 255, never the last one's, so that
// no board takes it for a repeat.
func (l *link) number() byte {
	if l.b.pack++; l.b.pack == 0 {
		l.b.pack = 1
	}
	return l.b.pack
}

func (l *link) write(b []byte) error {
	if _, err := l.line.Write(b); err != nil {
		return fmt.Errorf("%w: %w", errLine, err)
	}
	return nil
}
