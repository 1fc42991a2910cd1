package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/identity"
	"yaoju/daemon/kiosk"
	"yaoju/daemon/ledger"
	"yaoju/daemon/status"
	"yaoju/daemon/uplink"
	"yaoju/protocol"
)

const (
	// statusLook is how often it is looked whether a part has changed, so that the
	// document can say since when; and statusOld is when the certificate is read again:
	// a TPM takes a good part of a second to sign.
	statusLook = 5 * time.Second
	statusOld  = time.Minute
)

// teller tells whoever asks on the status socket how the machine is.
type teller struct {
	cfg      cabinet.Config
	book     *ledger.Ledger
	fitted   *cabinet.Cabinet
	warden   *kiosk.Warden
	line     *uplink.Uplink
	identity identity.Options
	screen   string                // address of the page
	update   func() *status.Update // nil: this machine takes no updates
	started  time.Time
	log      *slog.Logger

	mu    sync.Mutex
	parts []status.Part // guarded by mu: as they were looked at last; never changed, only replaced

	// owned by Run
	named identity.Report
	read  time.Time // when named was read
}

// Run looks and tells until ctx ends. A machine that cannot be asked serves all the
// same.
func (s *teller) Run(ctx context.Context) error {
	s.look(time.Now())
	var serving sync.WaitGroup
	defer serving.Wait()
	l, err := status.Listen(ctx, s.cfg.Status)
	if err != nil {
		s.log.Warn("nobody can ask how the machine is", "err", err)
	} else {
		serving.Go(func() {
			if err := status.Serve(ctx, l, s.document); err != nil {
				s.log.Warn("nobody can ask any more how the machine is", "err", err)
			}
		})
	}
	again := time.NewTicker(statusLook)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			s.look(time.Now())
		}
	}
}

// look notes how every part is, and since when.
func (s *teller) look(now time.Time) {
	if now.Sub(s.read) >= statusOld && s.cfg.District.Secure() {
		s.named, s.read = identity.Describe(s.identity), now
	}
	inside, _ := s.fitted.Watch()
	parts := append(inside.Status(now), s.others(now)...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range parts {
		// Which parts there are, and their order, never changes.
		if len(s.parts) == len(parts) && s.parts[i].State == p.State {
			parts[i].Since = s.parts[i].Since
		}
	}
	s.parts = parts
}

// others are the parts that are not in the cabinet.
func (s *teller) others(now time.Time) []status.Part {
	part := func(name, device string, state status.State, why string) status.Part {
		return status.Part{Part: name, Device: device, State: state, Why: why, Since: now}
	}
	parts := []status.Part{part(status.PartScreen, s.screen, status.Up, "")}
	line := part(status.PartUplink, s.cfg.District.Address(), status.Up, "")
	if !s.line.Status().Connected {
		line.State, line.Why = status.Down, "not connected to the district"
	}
	name := part(status.PartIdentity, s.cfg.District.Enrol, status.Up, "")
	switch {
	case !s.cfg.District.Secure():
		name.State = status.Off
	case !s.named.Good && len(s.named.Words) > 0:
		name.State, name.Why = status.Down, s.named.Words[len(s.named.Words)-1]
	}
	clock := part(status.PartClock, "", status.Up, "")
	if c := s.book.Clock(); c != protocol.ClockSynced {
		clock.State, clock.Why = status.Down, fmt.Sprintf("the clock is %s", c)
	}
	memory := part(status.PartLedger, s.cfg.Data, status.Up, "")
	select {
	case <-s.book.Failed():
		memory.State, memory.Why = status.Down, ledger.ErrFailed.Error()
	default:
	}
	disk := part(status.PartDisk, s.cfg.Data, status.Up, "")
	switch d, err := diskOf(s.cfg.Data); {
	case err != nil:
		disk.State, disk.Why = status.Down, err.Error()
	case d.ReadOnly:
		disk.State, disk.Why = status.Down, "it can only be read"
	}
	return append(parts, line, name, clock, memory, disk)
}

// leastRoom is what the ledger needs to open: less than that, and SQLite fails with
// words that do not say why.
const leastRoom = 256 << 10

// noRoom says of a failure that the disk is full, if it is.
func noRoom(dir string, err error) error {
	d, asked := diskOf(dir)
	if asked != nil || d.ReadOnly || d.Free >= leastRoom {
		return err
	}
	return fmt.Errorf("the disk is full, %d KiB are free in %s: %w", d.Free>>10, dir, err)
}

// diskOf is the room where the data is.
func diskOf(dir string) (status.Disk, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return status.Disk{}, fmt.Errorf("room in %s: %w", dir, err)
	}
	const readOnly = 1 // ST_RDONLY
	return status.Disk{Free: int64(st.Bavail) * int64(st.Bsize), Size: int64(st.Blocks) * int64(st.Bsize), ReadOnly: int64(st.Flags)&readOnly != 0}, nil
}

// document is how the machine is now.
func (s *teller) document(ctx context.Context) (status.Document, error) {
	state, err := report{s.book, s.fitted, s.warden}.state(ctx)
	if err != nil {
		return status.Document{}, err
	}
	d := status.Document{Machine: string(s.cfg.Machine), Version: version, PID: os.Getpid(), Started: s.started, At: time.Now(), Serving: string(state.Serving),
		Faults: []status.Fault{}, Parts: []status.Part{}, Uplink: status.Uplink{LastAck: s.line.Status().LastAck},
		Ledger: status.Ledger{ID: string(state.Ledger), Head: state.Head, Acked: state.Acked.Seq, Open: state.Open},
		Board:  status.Board{Serial: state.Board.Serial, Build: fmt.Sprintf("%08x", state.Board.Build), DoorOpen: state.DoorOpen}}
	if c, _ := s.warden.Watch(); c.Closed != 0 {
		d.Closed = c.Closed.Code()
	}
	for _, slot := range state.Slots {
		d.Ledger.Boxes += slot.Pieces
	}
	for _, f := range state.Faults {
		info, _ := f.Fault.Info() // a number we do not know has words that say so
		d.Faults = append(d.Faults, status.Fault{Code: f.Fault.Code(), Slot: int(f.Slot), ZH: info.ZH, EN: info.EN})
	}
	if d.Disk, err = diskOf(s.cfg.Data); err != nil {
		s.log.Debug("disk not measured", "err", err) // the disk's part says so too
	}
	if s.update != nil {
		d.Update = s.update()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.Parts = append(d.Parts, s.parts...)
	return d, nil
}
