package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"yaoju/protocol/board"
)

const (
	// answerLimit bounds one try: question and answer are at most 108 bytes, 10 ms
	// at 115200 baud, and the firmware answers within a millisecond. On a busy Pi
	// 100 ms was short for 31 of 10,000.
	answerLimit = 100 * time.Millisecond

	// tries is how often one question is asked. Repeating is safe: VEND is guarded
	// by its id on the board, HOLD by its press, and the rest only set what is set.
	tries = 5

	pollIdle   = 500 * time.Millisecond // a tenth of the board's heartbeat limit
	pollMotion = 200 * time.Millisecond // while a motor turns
)

// Either of these means that the line is of no more use and is to be opened anew.
var (
	errSilent = errors.New("motor board does not answer")
	errLine   = errors.New("line to the motor board")
)

// call is one question of somebody, on its way to the owner of the line.
type call struct {
	ctx   context.Context // ended: nobody waits any more, and nothing may be sent
	ask   board.Message
	check func(board.HelloIs) error // asked before every try, with who is at the other end; nil allows
	reply chan reply                // holds one: the owner never waits
}

type reply struct {
	answer board.Message // a board.Nak, or the kind that belongs to the question
	tries  int           // times the question was sent
	err    error
}

// link is one life of the line, from dial to close.
type link struct {
	b      *Board
	line   io.ReadWriteCloser
	frames chan board.Frame
	dead   chan error
	seq    uint8

	hello  board.HelloIs
	uptime uint32 // of the last status, milliseconds
	waits  bool   // the configuration could not be sent, and that was said
}

// serve owns line: it alone writes to it, and it alone asks.
func (b *Board) serve(ctx context.Context, line io.ReadWriteCloser) error {
	l := &link{
		b: b, line: line, seq: b.seq,
		frames: make(chan board.Frame, 8), // more than ever come for one question
		dead:   make(chan error, 1),
	}
	read := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(read)
		l.read(stop)
	}()
	defer func() {
		b.update(func(s *Status) { s.Up = false })
		close(stop)
		line.Close() // frees the reader; the line is given up, so its error tells nothing
		<-read
		b.seq = l.seq // the next life goes on counting: late answers stay strangers
	}()
	return l.run(ctx)
}

// read passes frames on until the line is closed.
func (l *link) read(stop <-chan struct{}) {
	r := board.NewReader(l.line)
	for {
		f, err := r.Next()
		if err != nil {
			l.dead <- err
			return
		}
		select {
		case l.frames <- f:
		case <-stop:
			return
		}
	}
}

func (l *link) run(ctx context.Context) error {
	if err := l.greet(ctx); err != nil {
		return err
	}
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.dead:
			return fmt.Errorf("%w: %w", errLine, err)
		case <-l.frames: // the answer to a question that was given up
		case c := <-l.b.calls:
			if err := l.serveCall(c); err != nil {
				return err
			}
		case <-poll.C:
			wait, err := l.poll(ctx)
			if err != nil {
				return err
			}
			poll.Reset(wait)
		}
	}
}

// serveCall answers c. Its error means that the line is of no more use.
func (l *link) serveCall(c call) error {
	var answer board.Message
	var n int
	var err error
	if _, turns := c.ask.(board.Vend); turns {
		err = l.reconfigure(c.ctx) // by the wrong one it could turn the wrong motors
	}
	if err == nil {
		answer, n, err = l.ask(c.ctx, c.ask, c.check)
	}
	if err == nil {
		l.b.learned(answer)
		err = l.notice(c.ctx, answer)
	}
	c.reply <- reply{answer, n, err}
	if errors.Is(err, errSilent) || errors.Is(err, errLine) {
		return err
	}
	return nil
}

// ask sends m until it is answered, and says how often it was sent.
func (l *link) ask(ctx context.Context, m board.Message, check func(board.HelloIs) error) (board.Message, int, error) {
	for try := range tries {
		if err := ctx.Err(); err != nil {
			return nil, try, err
		}
		if check != nil {
			if err := check(l.hello); err != nil {
				return nil, try, err
			}
		}
		l.seq++
		if _, err := l.line.Write(board.Append([]byte{0}, l.seq, m)); err != nil {
			return nil, try + 1, fmt.Errorf("%w: %w", errLine, err)
		}
		answer, err := l.wait(m.Kind())
		if answer != nil || err != nil {
			return answer, try + 1, err
		}
	}
	return nil, tries, fmt.Errorf("%w: asked %T %d times", errSilent, m, tries)
}

// wait waits for the answer to the question just sent; nil, nil is none in time.
func (l *link) wait(k board.Kind) (board.Message, error) {
	limit := time.NewTimer(answerLimit)
	defer limit.Stop()
	for {
		select {
		case <-limit.C:
			return nil, nil
		case err := <-l.dead:
			return nil, fmt.Errorf("%w: %w", errLine, err)
		case f := <-l.frames:
			if f.Seq != l.seq {
				continue // to a question that was given up
			}
			m, err := f.Parse()
			var version *board.VersionError
			if errors.As(err, &version) {
				return nil, fmt.Errorf("%w: %w", errLine, err)
			}
			if err == nil && (m.Kind() == k.Answer() || m.Kind() == board.KindNak) {
				return m, nil
			}
		}
	}
}

// greet learns who is there and gives the board what it needs of us.
func (l *link) greet(ctx context.Context) error {
	m, _, err := l.ask(ctx, board.Hello{Proto: board.Version}, nil)
	if err != nil {
		return err
	}
	hello, ok := m.(board.HelloIs)
	if !ok {
		return fmt.Errorf("%w: HELLO was refused: %v", errLine, m)
	}
	l.hello, l.uptime = hello, hello.UptimeMS
	if err := l.configure(ctx); err != nil {
		return err
	}
	if percent, ok := l.b.wantedLight(); ok {
		if _, _, err := l.ask(ctx, board.Light{Percent: percent}, nil); err != nil {
			return err
		}
	}
	m, _, err = l.ask(ctx, board.Status{}, nil)
	if err != nil {
		return err
	}
	is, ok := m.(board.StatusIs)
	if !ok {
		return fmt.Errorf("%w: STATUS was refused: %v", errLine, m)
	}
	l.uptime = is.UptimeMS
	l.b.met(l.hello, is)
	return nil
}

// reconfigure is configure for a board that was met.
func (l *link) reconfigure(ctx context.Context) error {
	was := l.hello.ConfigHash
	err := l.configure(ctx)
	if l.hello.ConfigHash != was {
		l.b.update(func(s *Status) { s.Hello.ConfigHash = l.hello.ConfigHash })
	}
	return err
}

// configure sends the configuration if the board has another. While a motor
// turns the board will not have it, and the next poll tries again. A board that
// refuses it for good is not used: the line is given up, and Keep asks again.
func (l *link) configure(ctx context.Context) error {
	c := l.b.opt.Config
	if c == (board.Configure{}) || c.Hash() == l.hello.ConfigHash {
		return nil
	}
	m, _, err := l.ask(ctx, c, nil)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case board.HelloIs:
		l.hello = m
	case board.Nak:
		if m.Reason != board.NakBusy {
			return fmt.Errorf("%w: the board refuses its configuration: reason %d", errLine, m.Reason)
		}
		if !l.waits {
			l.b.log.Info("configuration waits until the motor stands still", "device", l.hello.Serial)
		}
		l.waits = true
	}
	return nil
}

// poll asks for the status and returns when to ask again.
func (l *link) poll(ctx context.Context) (time.Duration, error) {
	m, _, err := l.ask(ctx, board.Status{}, nil)
	if err == nil {
		err = l.notice(ctx, m)
	}
	if err != nil {
		return 0, err
	}
	if is, ok := m.(board.StatusIs); ok && is.Motion != board.MotionNone {
		return pollMotion, nil
	}
	return pollIdle, l.reconfigure(ctx)
}

// notice looks at every answer that passes: a status is news, and shows when the
// board has restarted or is another one.
func (l *link) notice(ctx context.Context, m board.Message) error {
	is, ok := m.(board.StatusIs)
	if !ok {
		return nil
	}
	if is.Boot != l.hello.Boot || is.UptimeMS < l.uptime {
		return l.greet(context.WithoutCancel(ctx)) // the caller may leave; who is there must still be known
	}
	l.uptime = is.UptimeMS
	l.b.heardStatus(is)
	return nil
}
