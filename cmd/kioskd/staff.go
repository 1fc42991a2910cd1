package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/kiosk"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine"
	"yaoju/daemon/scan"
	"yaoju/daemon/staff"
	"yaoju/protocol"
	"yaoju/protocol/gs1"
)

// pepperFile is the machine's part of PINs and badges, in the data folder.
const pepperFile = "staff.pepper"

// openStaff opens the accounts of one machine.
func openStaff(ctx context.Context, data string, book *ledger.Ledger) (*staff.Book, error) {
	pepper, err := staff.OpenPepper(filepath.Join(data, pepperFile))
	if err != nil {
		return nil, err
	}
	return staff.Open(ctx, accounts{book}, pepper)
}

// setAccounts puts the accounts of a file in place of all others, for a machine whose
// district has not sent any yet. kioskd must not run.
func setAccounts(ctx context.Context, cfg cabinet.Config, path string, log *slog.Logger) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	secrets, err := protocol.DecodeSecrets(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	held, err := lock(cfg.Data)
	if err != nil {
		return err
	}
	defer held.Close()
	book, err := openLedger(ctx, cfg, false, log)
	if err != nil {
		return err
	}
	defer book.Close()
	who, err := openStaff(ctx, cfg.Data, book)
	if err != nil {
		return err
	}
	return who.Replace(ctx, secrets.Accounts)
}

// service is what is behind the service door. Without a reader for staff cards nobody
// can come in, and the door only says that it is open.
func service(cfg cabinet.Config, who *staff.Book, book *ledger.Ledger, fitted *cabinet.Cabinet) kiosk.Service {
	if len(cfg.Badges) == 0 {
		return kiosk.Service{}
	}
	return kiosk.Service{Lobby: lobby{who}, Hands: hands{fitted, book}, Stock: stockroom{book}, Bench: bench{fitted}}
}

// accounts is the ledger as package staff keeps in it.
type accounts struct{ *ledger.Ledger }

func (a accounts) Accounts(ctx context.Context) ([]staff.Kept, error) {
	stored, err := a.Ledger.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]staff.Kept, len(stored))
	for i, s := range stored {
		if err := json.Unmarshal(s.Kept, &all[i]); err != nil {
			return nil, fmt.Errorf("account %s: %w", s.Staff, err)
		}
	}
	return all, nil
}

func (a accounts) SetAccounts(ctx context.Context, all []staff.Kept) error {
	stored := make([]ledger.Account, len(all))
	for i, k := range all {
		b, err := json.Marshal(k)
		if err != nil {
			return err
		}
		stored[i] = ledger.Account{Staff: k.Staff, Kept: b}
	}
	return a.Ledger.SetAccounts(ctx, stored)
}

func (a accounts) Lock(ctx context.Context, account string) (staff.Lock, error) {
	l, err := a.Ledger.Lock(ctx, account)
	return staff.Lock(l), err
}

func (a accounts) SetLock(ctx context.Context, account string, l staff.Lock, locked bool) error {
	return a.Ledger.SetLock(ctx, account, ledger.StaffLock(l), locked)
}

// applied puts a desired state in force, and then what is sealed in it: the ledger
// refuses an older one first, so that nobody brings accounts back that were taken away.
// The same state comes again with each connection, so a crash between the two mends
// itself. Accounts that cannot be opened are a fault, and no reason to hold up a recall.
func applied(book *ledger.Ledger, who *staff.Book, id opener, log *slog.Logger) func(context.Context, protocol.Desired) error {
	return func(ctx context.Context, d protocol.Desired) error {
		if err := book.Apply(ctx, d); err != nil {
			return err
		}
		if len(d.Sealed) == 0 {
			return nil
		}
		secrets, err := opened(id, d.Sealed)
		if err != nil {
			log.Error("accounts not taken: those before stay", "err", err)
			return book.Raise(ctx, protocol.FaultAccounts, 0)
		}
		if err := who.Replace(ctx, secrets.Accounts); err != nil {
			return err
		}
		return book.ClearFault(ctx, protocol.FaultAccounts, 0)
	}
}

// opener opens what was sealed to this machine.
type opener interface {
	Open(purpose string, sealed []byte) ([]byte, error)
}

func opened(id opener, sealed []byte) (protocol.Secrets, error) {
	plain, err := id.Open(protocol.SealedSecrets, sealed)
	if err != nil {
		return protocol.Secrets{}, err
	}
	return protocol.DecodeSecrets(plain)
}

// lobby is the accounts as the staff menu asks them.
type lobby struct{ *staff.Book }

func (l lobby) Who(ctx context.Context, b protocol.Badge) (kiosk.Account, bool, error) {
	account, role, ok, err := l.Book.Who(ctx, b)
	return kiosk.Account{Staff: account, Role: role}, ok, err
}

func (l lobby) Still(ctx context.Context, account string) (kiosk.Account, bool, error) {
	role, ok, err := l.Book.Role(ctx, account)
	return kiosk.Account{Staff: account, Role: role}, ok, err
}

func (l lobby) Check(ctx context.Context, account, pin string) (kiosk.Verdict, error) {
	err := l.Book.Check(ctx, account, pin)
	if wrong, ok := errors.AsType[*staff.WrongError](err); ok {
		return kiosk.Verdict{Left: wrong.Left, Locked: wrong.For}, nil
	}
	if locked, ok := errors.AsType[*staff.LockedError](err); ok {
		return kiosk.Verdict{Locked: locked.For}, nil
	}
	return kiosk.Verdict{OK: err == nil}, err
}

// hands are the scanners and staff card readers as the staff menu sees them.
type hands struct {
	*cabinet.Cabinet
	book *ledger.Ledger
}

func (h hands) Next(ctx context.Context) (kiosk.Brought, error) {
	for {
		e, err := h.Cabinet.Next(ctx)
		switch {
		case err != nil:
			return kiosk.Brought{}, err
		case e.Badge != nil:
			return kiosk.Brought{Badge: &protocol.Badge{Kind: string(e.Badge.Kind), UID: e.Badge.UID}}, nil
		case e.Scan != nil:
			return h.carton(e.Scan)
		}
	}
}

// carton reads a scanned code.
func (h hands) carton(s *scan.Scan) (kiosk.Brought, error) {
	c, err := gs1.Parse(s.Code, time.Now())
	if bad, ok := errors.AsType[*gs1.Error](err); ok {
		zh, en := bad.Problem.Words()
		return kiosk.Brought{Unread: protocol.Text{ZH: zh, EN: en}}, nil
	}
	if err != nil {
		return kiosk.Brought{}, err
	}
	out := kiosk.Carton{Code: c.Product, Batch: c.Batch, Expiry: c.Expiry}
	if d, ok := h.book.Desired(); ok {
		for _, p := range d.Products {
			for _, code := range p.Codes {
				if code == c.Product {
					out.Product = p.ID
				}
			}
		}
	}
	return kiosk.Brought{Carton: &out}, nil
}

// stockroom is the ledger as the staff menu writes it.
type stockroom struct{ *ledger.Ledger }

func (s stockroom) Bays(ctx context.Context) ([]kiosk.Bay, uint64, error) {
	stored, head, err := s.Ledger.Bays(ctx)
	bays := make([]kiosk.Bay, len(stored))
	for i, b := range stored {
		bays[i] = kiosk.Bay{SlotPlan: b.SlotPlan, Held: b.Held, Blocked: b.Blocked, Unknown: b.Unknown}
		for _, l := range b.Batches {
			bays[i].Lots = append(bays[i].Lots, kiosk.Lot{Product: l.Product, Batch: l.Batch, Expiry: l.Expiry, Pieces: l.Pieces, Usable: l.Usable})
		}
	}
	return bays, head, err
}

// decided turns a refusal of the ledger into one of the menu.
func decided(err error) error {
	if no, ok := errors.AsType[*ledger.RefusedError](err); ok {
		return &kiosk.RefusedError{Reason: string(no.Reason), Have: no.Have}
	}
	return err
}

func (s stockroom) Load(ctx context.Context, st protocol.Stock, pieces int, who string) error {
	return decided(s.Ledger.Load(ctx, st, pieces, who))
}

func (s stockroom) Remove(ctx context.Context, st protocol.Stock, pieces int, why protocol.Removal, who string) error {
	return decided(s.Ledger.Remove(ctx, st, pieces, why, who))
}

func (s stockroom) Count(ctx context.Context, st protocol.Stock, counted int, asOf uint64, reason, who string) error {
	return decided(s.Ledger.Count(ctx, st, counted, asOf, reason, who))
}

// bench is the motors as staff move them.
type bench struct{ *cabinet.Cabinet }

func (b bench) TestTurn(ctx context.Context, slot protocol.Slot) error {
	return b.Motors.TestTurn(ctx, slot)
}
func (b bench) Home(ctx context.Context, slot protocol.Slot) error { return b.Motors.Home(ctx, slot) }

// Settled waits until nothing moves and nothing is watched for any more.
func (b bench) Settled(ctx context.Context) {
	for {
		s, stale := b.Motors.Watch()
		if !s.Up || s.Motion == (machine.Motion{}) {
			return
		}
		select {
		case <-stale:
		case <-ctx.Done():
			return
		}
	}
}

func (b bench) Drops() (int, bool) {
	s, _ := b.Motors.Watch()
	return s.Odometer.Drops, s.Up && s.Odometer != (machine.Odometer{})
}
