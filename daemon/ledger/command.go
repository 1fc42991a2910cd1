package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"yaoju/protocol"
)

// Pause serves nobody until Resume; it survives a restart. FaultPaused stands
// meanwhile.
func (l *Ledger) Pause(ctx context.Context) error {
	return l.tx(ctx, "pause", (*tx).pause)
}

// Resume serves again.
func (l *Ledger) Resume(ctx context.Context) error {
	return l.tx(ctx, "resume", (*tx).resume)
}

// Paused reports whether nobody is to be served.
func (l *Ledger) Paused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

func (t *tx) paused() bool { return t.l.Paused() }

func (t *tx) pause() error {
	if _, err := t.exec(`UPDATE meta SET paused = 1 WHERE paused = 0`); err != nil {
		return err
	}
	t.after = append(t.after, func() { t.l.paused = true })
	return t.raise(protocol.FaultPaused, 0)
}

func (t *tx) resume() error {
	if _, err := t.exec(`UPDATE meta SET paused = 0 WHERE paused = 1`); err != nil {
		return err
	}
	t.after = append(t.after, func() { t.l.paused = false })
	return t.clearFault(protocol.FaultPaused, 0)
}

// Do does a command at most once: its effect, the event that answers it and the
// memory of it are one transaction. A command done before is answered as it was
// then. The error is about this machine's disk, a command for another machine, or an
// update while the clock is unset: then nothing was recorded, and it may come again.
// A command that cannot be done is an answer.
func (l *Ledger) Do(ctx context.Context, c protocol.Command) (protocol.CommandDone, error) {
	var done protocol.CommandDone
	if err := c.Valid(); err != nil {
		return done, fmt.Errorf("ledger: command: %w", err)
	}
	if c.Machine != l.machine {
		return done, fmt.Errorf("ledger: command %s: it is for machine %q, this is %q", c.ID, c.Machine, l.machine)
	}
	err := l.tx(ctx, "command "+c.ID, func(t *tx) error {
		var err error
		done, err = t.answer(c)
		return err
	})
	return done, err
}

func (t *tx) answer(c protocol.Command) (protocol.CommandDone, error) {
	done := protocol.CommandDone{ID: c.ID}
	err := t.row(`SELECT verb, result, detail FROM command WHERE id = ?`, c.ID).Scan(&done.Verb, &done.Result, &done.Detail)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return done, err
	}
	done, err = t.first(c)
	if err != nil {
		return done, err
	}
	_, err = t.exec(`INSERT INTO command (id, verb, result, detail) VALUES (?, ?, ?, ?)`, done.ID, done.Verb, done.Result, done.Detail)
	if err != nil {
		return done, err
	}
	return done, t.append(done)
}

// first hears a command for the first time: it is judged and, if it holds, done.
func (t *tx) first(c protocol.Command) (protocol.CommandDone, error) {
	if c.Verb == protocol.VerbUpdate && t.clock == protocol.ClockUnset {
		// It holds for days and the clock is unset for minutes: an answer now would be
		// one for good, so there is none until somebody can judge it.
		return protocol.CommandDone{}, errors.New("the clock is not set, so nobody can tell whether the order still holds")
	}
	newer, err := t.exec(`UPDATE meta SET command_generation = ?1, command_counter = ?2
		WHERE (command_generation, command_counter) < (?1, ?2)`, c.Generation, c.Counter)
	if err != nil {
		return protocol.CommandDone{}, err
	}
	say := func(r protocol.CommandResult, detail string) (protocol.CommandDone, error) {
		return protocol.CommandDone{ID: c.ID, Verb: c.Verb, Result: r, Detail: detail}, nil
	}
	now := t.now.UnixMilli()
	switch {
	case newer == 0:
		return say(protocol.CommandFailed, protocol.LaterHeard)
	case t.clock == protocol.ClockUnset:
		return say(protocol.CommandFailed, "the clock is not set, so nobody can tell whether it still holds")
	case now >= c.ExpiresMS:
		return say(protocol.CommandExpired, "")
	case now+clockSlack.Milliseconds() < c.NotBeforeMS:
		return say(protocol.CommandFailed, "by this machine's clock it does not hold yet")
	}
	result, detail, err := t.perform(c)
	if err != nil {
		return protocol.CommandDone{}, err
	}
	return say(result, detail)
}

func (t *tx) perform(c protocol.Command) (result protocol.CommandResult, detail string, err error) {
	switch c.Verb {
	case protocol.VerbPause:
		return protocol.CommandOK, "", t.pause()
	case protocol.VerbResume:
		return protocol.CommandOK, "", t.resume()
	case protocol.VerbState:
		return protocol.CommandOK, "", nil // the commit itself is the change that sends the state
	case protocol.VerbBlock:
		return protocol.CommandOK, "", t.block(protocol.SlotBlocked{Slot: c.Slot, Why: protocol.BlockDistrict})
	case protocol.VerbClear:
		return t.clearFromAfar(c.Slot)
	case protocol.VerbUpdate:
		return t.order(c)
	}
	return protocol.CommandUnsupported, "", nil
}

// clearFromAfar lifts what somebody far away may judge. A slot that stands in
// mid-turn, is switched off at the machine or has an open vend needs a person there.
func (t *tx) clearFromAfar(slot protocol.Slot) (result protocol.CommandResult, detail string, err error) {
	for _, why := range []protocol.Block{protocol.BlockDistrict, protocol.BlockSuspect} {
		if err := t.clear(slot, why, ""); err != nil {
			return "", "", err
		}
	}
	y, err := t.tray()
	if err != nil {
		return "", "", err
	}
	if b := y.bay(slot); len(b.blocks) > 0 {
		return protocol.CommandFailed, fmt.Sprintf("slot %d is still blocked: %s", slot, b.blocks[0].Why), nil
	}
	return protocol.CommandOK, "", nil
}
