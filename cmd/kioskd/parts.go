package main

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/card"
	"yaoju/daemon/dispense"
	"yaoju/daemon/kiosk"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine"
	"yaoju/daemon/scan"
	"yaoju/protocol"
)

// The types below fit one package's words to another's, and nothing else: leaves
// never import each other, so they meet here.

// cards is the card reader as the session sees it.
type cards struct{ *card.Reader }

func (c cards) Watch() (kiosk.Presence, <-chan struct{}) {
	p, stale := c.Reader.Watch()
	return kiosk.Presence{Ready: p.Ready, Card: p.Card}, stale
}

func (c cards) Read(ctx context.Context, p protocol.Policy) (kiosk.Holder, error) {
	h, err := c.Reader.Read(ctx, card.Age{From: p.AgeFrom, To: p.AgeTo})
	return kiosk.Holder{
		Marks: dispense.Marks{Current: dispense.Mark(h.Marks.Current), Previous: dispense.Mark(h.Marks.Previous)},
		AgeOK: h.AgeOK, ValidOK: h.ValidOK,
	}, err
}

// headphones is the socket at path, or one that never has a plug in it.
func headphones(path string, log *slog.Logger) *scan.Jack {
	return scan.NewJack(func(ctx context.Context) (scan.JackLine, error) {
		if path == "" {
			<-ctx.Done() // there is none
			return nil, ctx.Err()
		}
		return scan.OpenJack(path)
	}, log)
}

// shelf is the ledger as the session asks it.
type shelf struct{ *ledger.Ledger }

func (s shelf) Offer(ctx context.Context) ([]kiosk.Choice, error) {
	offer, err := s.Ledger.Offer(ctx)
	var choices []kiosk.Choice
	for _, p := range offer {
		choices = append(choices, kiosk.Choice{ID: p.ID, Letter: p.Letter, Name: p.Name, Note: p.Note, Stock: p.Pieces > 0})
	}
	return choices, err
}

func (s shelf) Watch() <-chan struct{} {
	_, changed := s.Ledger.Watch()
	return changed
}

// rules is the ledger as the warden asks it.
type rules struct{ *ledger.Ledger }

func (r rules) Standing(ctx context.Context) ([]protocol.FaultRaised, error) {
	s, err := r.Snapshot(ctx)
	return s.Faults, err
}

func (r rules) Watch() <-chan struct{} { return shelf(r).Watch() }

// body is the cabinet as the warden sees it.
type body struct{ *cabinet.Cabinet }

func (b body) Watch() (kiosk.Body, <-chan struct{}) {
	all, stale := b.Cabinet.Watch()
	s := all.Board
	out := kiosk.Body{Session: s.Session, Up: s.Up, Serial: serial(s), Highest: s.Hello.Highest, DoorOpen: s.DoorOpen,
		Climate: climate(s), Percent: s.Motion.Percent}
	for _, f := range s.Faults {
		if f.Fault != protocol.FaultBoardSilent { // the warden judges silence itself, after a grace
			out.Faults = append(out.Faults, protocol.FaultRaised{Fault: f.Fault, Slot: f.Slot})
		}
	}
	if all.Wrong() {
		out.Faults = append(out.Faults, protocol.FaultRaised{Fault: protocol.FaultWrongDevice})
	}
	return out, stale
}

func serial(s machine.Status) string { return fmt.Sprintf("%016x", s.Hello.Serial) }

func climate(s machine.Status) *protocol.Climate {
	if !s.Climate.OK {
		return nil
	}
	return &protocol.Climate{C: float64(s.Climate.CentiC) / 100, RH: float64(s.Climate.CentiRH) / 100}
}

// report makes the state that goes to the district.
type report struct {
	book   *ledger.Ledger
	fitted *cabinet.Cabinet
	warden *kiosk.Warden
}

func (r report) state(ctx context.Context) (protocol.State, error) {
	s, err := r.book.Snapshot(ctx)
	if err != nil {
		return s, err
	}
	all, _ := r.fitted.Watch()
	b := all.Board
	s.Board = protocol.BoardState{Up: b.Up, Serial: serial(b), Build: b.Hello.Build}
	s.DoorOpen, s.Climate = b.DoorOpen, climate(b)
	s.Serving = protocol.ServingEmpty
	for _, slot := range s.Slots {
		if slot.Pieces > 0 && slot.Blocked == "" {
			s.Serving = protocol.ServingOpen
		}
	}
	if c, _ := r.warden.Watch(); c.Closed != 0 {
		s.Serving = protocol.ServingClosed
	}
	return s, nil
}

// obey carries commands out in the ledger, which records and answers them.
func obey(book *ledger.Ledger) func(context.Context, protocol.Command) error {
	return func(ctx context.Context, c protocol.Command) error {
		_, err := book.Do(ctx, c)
		return err
	}
}

// synced returns the question whether the wall clock is synchronised.
func synced(clock string) func() bool {
	if clock == "trusted" {
		return func() bool { return true }
	}
	return func() bool {
		// timeError is the kernel's word that nobody has set its clock (adjtimex(2)).
		const timeError = 5
		state, err := syscall.Adjtimex(&syscall.Timex{})
		return err == nil && state != timeError
	}
}
