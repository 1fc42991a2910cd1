package uplink

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"yaoju/protocol"
)

// maxFlights is how many batches may be unacknowledged: one on the way up while
// the ack of the one before is on the way down. More would only fill the broker.
const maxFlights = 2

// Waits for an ack before everything since the acked seq is sent again. The
// district commits in milliseconds; the last wait is for one that is down while
// its broker is up.
const (
	resendMin = 30 * time.Second
	resendMax = 8 * time.Minute
)

// A state goes out on change, but not more often than every stateGap, and at
// least every stateEvery: the district calls a machine offline after 11 minutes.
const (
	stateGap   = 10 * time.Second
	stateEvery = 5 * time.Minute
)

// session is one connection, from its first message to its last.
type session struct {
	u      *Uplink
	link   *link
	number uint64
	acked  bool // the district acknowledged something on this connection

	// owned by run
	sent    uint64   // newest seq sent on this connection, or the acked seq if that is higher
	flights []uint64 // last seq of each batch sent and not acknowledged, oldest first
	wait    time.Duration
	resend  time.Time // when to send again; zero while nothing is in flight

	stateAt   time.Time // when the last state went out
	stateBody []byte    // what it said, without what changes by itself
	stateDue  time.Time // when to look at the state again
}

// run speaks until the connection is lost or ctx ends.
func (s *session) run(ctx context.Context) error {
	m := s.u.o.Machine
	if err := s.link.subscribe(ctx, protocol.AckTopic(m), protocol.KeysTopic(m), protocol.DesiredTopic(m), protocol.CommandTopic(m)); err != nil {
		return err
	}
	if err := s.link.publish(protocol.OnlineTopic(m), protocol.Encode(protocol.Online{Online: true, Connection: s.number}), true); err != nil {
		return err
	}
	s.wait = resendMin
	s.sent = s.u.o.Chain.Acked().Seq
	s.u.o.Log.Info("connected to the district", "connection", s.number, "seq", s.sent)

	timer := time.NewTimer(0)
	defer timer.Stop()
	force := true // the first state is always sent
	for {
		// Watch before reading: a commit in between closes the channel.
		_, changed := s.u.o.Chain.Watch()
		if err := s.sendState(ctx, force); err != nil {
			return err
		}
		force = false
		if err := s.sendRecords(ctx); err != nil {
			return err
		}
		timer.Reset(time.Until(s.next()))
		select {
		case <-ctx.Done():
			s.goodbye()
			return ctx.Err()
		case err := <-s.link.lost:
			return fmt.Errorf("connection lost: %w", err)
		case b := <-s.u.acks:
			s.takeAck(ctx, b)
		case <-s.u.stateNow:
			force = true
		case <-changed:
			s.stateDue = earlier(s.stateDue, s.stateAt.Add(stateGap))
		case <-timer.C:
		}
	}
}

// next is when something is due although nothing happens.
func (s *session) next() time.Time {
	if s.resend.IsZero() {
		return s.stateDue
	}
	return earlier(s.resend, s.stateDue)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// takeAck lets the chain judge an ack. A bad one is the district's fault and no
// reason to hang up.
func (s *session) takeAck(ctx context.Context, b []byte) {
	a, err := protocol.DecodeAck(b)
	if err == nil {
		err = s.u.o.Chain.SetAcked(ctx, a)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.u.refuse("ack", err)
		}
		return
	}
	s.acked = true
	s.u.noteAck()
}

// sendRecords brings what is in flight up to date with the acked seq and sends
// what there is room for.
func (s *session) sendRecords(ctx context.Context) error {
	s.account(s.u.o.Chain.Acked().Seq, time.Now())
	for len(s.flights) < maxFlights {
		records, err := s.u.o.Chain.Since(ctx, s.sent, protocol.MaxMessage)
		if err != nil {
			return fmt.Errorf("read the chain after seq %d: %w", s.sent, err)
		}
		msg, n := protocol.AppendBatch(nil, s.u.o.Identity.ID(), records)
		if n == 0 {
			return nil
		}
		if err := s.link.publish(protocol.EventsTopic(s.u.o.Machine), msg, false); err != nil {
			return err
		}
		s.sent = records[n-1].Seq
		s.flights = append(s.flights, s.sent)
		if s.resend.IsZero() {
			s.resend = time.Now().Add(jitter(s.wait))
		}
	}
	return nil
}

// account moves the window: the acked seq may have risen, may have fallen because
// a restored district began a new generation, or may be overdue.
func (s *session) account(acked uint64, now time.Time) {
	before := len(s.flights)
	s.flights = slices.DeleteFunc(s.flights, func(last uint64) bool { return last <= acked })
	progress := len(s.flights) < before
	fell := len(s.flights) == 0 && acked < s.sent
	overdue := len(s.flights) > 0 && !progress && !now.Before(s.resend)
	switch {
	case progress:
		s.wait = resendMin
	case overdue:
		s.u.o.Log.Warn("no ack from the district, sending again", "seq", acked, "waited", s.wait)
		s.wait = min(2*s.wait, resendMax)
	}
	if fell || overdue {
		s.flights, s.sent = nil, acked
	}
	s.sent = max(s.sent, acked)
	switch {
	case len(s.flights) == 0:
		s.resend = time.Time{}
	case progress:
		s.resend = now.Add(jitter(s.wait))
	}
}

// sendState publishes the state if it is due and says something new, or if force
// is wanted.
func (s *session) sendState(ctx context.Context, force bool) error {
	now := time.Now()
	if !force && now.Before(s.stateDue) {
		return nil
	}
	st, err := s.u.o.State(ctx)
	if err != nil {
		return fmt.Errorf("take the state: %w", err)
	}
	body := steady(st)
	if force || now.Sub(s.stateAt) >= stateEvery || !bytes.Equal(body, s.stateBody) {
		if err := s.link.publish(protocol.StateTopic(s.u.o.Machine), protocol.Encode(st), true); err != nil {
			return err
		}
		s.stateAt, s.stateBody = now, body
	}
	s.stateDue = s.stateAt.Add(stateEvery)
	return nil
}

// steady is the state without what changes by itself: its time, the air, and the
// ack it may have caused.
func steady(st protocol.State) []byte {
	st.Stamp, st.Climate, st.Acked = protocol.Stamp{}, nil, protocol.Ack{}
	return protocol.Encode(st)
}

// goodbye tells the district that this is a stop and not a loss.
func (s *session) goodbye() {
	err := s.link.publish(protocol.OnlineTopic(s.u.o.Machine), protocol.Encode(protocol.Online{Connection: s.number}), true)
	if err == nil {
		err = s.link.settle(goodbyeLimit)
	}
	if err != nil {
		s.u.o.Log.Warn("left without saying goodbye", "err", err)
	}
}
