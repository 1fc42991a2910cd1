package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

const (
	// confirmLimit bounds the wait for a person's yes: kioskd stands still meanwhile.
	confirmLimit = 2 * time.Minute

	// restartLimit bounds the wait for PONG, and loaderLimit that for the bootloader
	// of a board that restarts: its watchdog bites within 16 ms.
	restartLimit = 600 * time.Millisecond
	loaderLimit  = 3 * time.Second

	// loaderIdle is how long a bootloader that has heard a byte must hear nothing
	// more until it starts the firmware: 5 s on a Mega, measured in simavr.
	loaderIdle = 8 * time.Second

	// backLimit bounds the wait for the board after it was flashed: 300 ms to start, or
	// asked in vain, left alone until its bootloader gives up, and asked once more.
	backLimit = 2*askLimit + loaderIdle

	// lookEvery is how often a line that is gone is looked for.
	lookEvery = 500 * time.Millisecond
)

type flashOptions struct {
	config, hex, port string
	serial            string
	yes, blank        bool
	wait              time.Duration
}

func flashFlags(args []string, out io.Writer) (flashOptions, error) {
	var o flashOptions
	f := flag.NewFlagSet("yaoju board flash", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.config, "config", "", "kioskd.toml of the machine; without it "+kioskConfigPath+" if it is there, else the board is on a bench")
	f.StringVar(&o.hex, "hex", "", "firmware to write, an Intel HEX file such as motor.hex")
	f.StringVar(&o.port, "port", "", "serial line of the board; without it the one in the configuration")
	f.StringVar(&o.serial, "serial", "", "serial number for a board that has none or does not answer: 16 hexadecimal digits, or new")
	f.BoolVar(&o.yes, "yes", false, "do not ask before writing")
	f.BoolVar(&o.blank, "blank", false, "write to a board that does not answer: a new one, or one whose flash was cut short")
	f.DurationVar(&o.wait, "wait", time.Minute, "how long to look for the bootloader of a board that does not answer, while a person switches it on")
	if err := parse(f, args); err != nil {
		return o, err
	}
	if o.config == "" {
		if _, err := os.Stat(kioskConfigPath); err == nil {
			o.config = kioskConfigPath
		}
	}
	if o.serial != "" {
		if _, err := o.wantedSerial(); err != nil {
			return o, usageError{err}
		}
	}
	switch {
	case o.hex == "":
		return o, usageError{errors.New("say what to write: -hex motor.hex")}
	case o.config == "" && o.port == "":
		return o, usageError{errors.New("say which board: -config kioskd.toml, or -port /dev/... for one on a bench")}
	case o.wait <= 0 || o.wait > 10*time.Minute:
		return o, usageError{errors.New("-wait: want more than 0 and at most 10m")}
	case o.blank && o.serial == "":
		return o, usageError{errors.New("-blank needs -serial: the board cannot say its serial number, and by that number the ledger knows whose memory it is. " +
			"Take the one it had (16 hexadecimal digits, as on the district's page of this machine); for a board that never had one say -serial new")}
	}
	return o, nil
}

// wantedSerial is the number that -serial says; 63 bits, so that it fits every database.
func (o flashOptions) wantedSerial() (uint64, error) {
	if o.serial == "new" {
		var b [8]byte
		rand.Read(b[:]) // never fails, and 0 has one chance in 2^63
		return max(1, binary.LittleEndian.Uint64(b[:])>>1), nil
	}
	n, err := strconv.ParseUint(o.serial, 16, 63)
	if err != nil || len(o.serial) != 16 || n == 0 {
		return 0, fmt.Errorf("-serial %q: want 16 hexadecimal digits, not all zero, the first below 8; or the word new", o.serial)
	}
	return n, nil
}

// boardFlash runs `yaoju board flash`.
func boardFlash(ctx context.Context, args []string, term terminal) error {
	o, err := flashFlags(args, term.err)
	if err != nil {
		return err
	}
	fw, err := openFirmware(o.hex)
	if err != nil {
		return err
	}
	p, err := findPlace(o.config, o.port)
	if err != nil {
		return err
	}
	held, err := p.hold()
	if err != nil {
		return err
	}
	if held != nil {
		defer held.Close()
	}
	f := flashing{o: o, p: p, fw: fw, term: term}
	return f.run(ctx)
}

// flashing is one board's way from one firmware to the next.
type flashing struct {
	o    flashOptions
	p    place
	fw   firmware
	term terminal

	before *board.HelloIs // what the board said before; nil: it did not answer
	serial uint64         // that it has, or is to get
}

func (f *flashing) run(ctx context.Context) error {
	open, err := f.p.openVends(ctx)
	if err != nil {
		return err
	}
	l, err := openLine(ctx, f.p.port, f.p.baud)
	if err != nil {
		return err
	}
	err = f.prepare(ctx, l, open)
	if err != nil {
		l.close()
		return err
	}

	// From here on the board changes, and stopping half way would leave it without
	// firmware: a signal is heeded when it is over.
	ctx = context.WithoutCancel(ctx)
	err = f.write(ctx, l)
	l.close()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, f.standing(ctx))
	}
	return f.verify(ctx)
}

// write brings the board into its bootloader and writes. The line stays open all the
// while: on USB, opening it resets the board, and that starts its program.
func (f *flashing) write(ctx context.Context, l *line) error {
	b := &loader{l: l}
	err := f.enterLoader(ctx, b)
	if err == nil {
		err = b.writeImage(ctx, f.fw.withSerial(f.serial))
	} else {
		err = untouchedError{err}
	}
	if _, untouched := errors.AsType[untouchedError](err); untouched {
		return fmt.Errorf("nothing was written: %w", err)
	}
	return err
}

// prepare meets the board and makes sure that it may be flashed.
func (f *flashing) prepare(ctx context.Context, l *line, open []openVend) error {
	if err := f.meet(ctx, l); err != nil {
		return err
	}
	if f.before != nil {
		if err := idle(ctx, l, open); err != nil {
			return err
		}
	} else if len(open) > 0 {
		fmt.Fprintf(f.term.out, "%s still open. The board's memory of vends is not touched, and kioskd asks it afterwards.\n", vendsText(open))
	}
	was := "a board that does not answer"
	if f.before != nil {
		was = fmt.Sprintf("build %08x", f.before.Build)
	}
	fmt.Fprintf(f.term.out, "Board %s on %s: %s becomes build %08x, in about 10 s. Do not switch anything off meanwhile.\n",
		serialText(f.serial), f.p.port, was, f.fw.build)
	if f.o.yes {
		return nil
	}
	return confirm(ctx, f.term)
}

// meet asks the board who it is and decides on its serial number.
func (f *flashing) meet(ctx context.Context, l *line) error {
	h, err := l.hello(ctx, askLimit)
	_, version := errors.AsType[*board.VersionError](err)
	switch {
	case errors.Is(err, errSilent) || version:
		if !f.o.blank {
			return fmt.Errorf("%w. If the board is new, or a flash of it was cut short, write it with -blank -serial N", err)
		}
		f.serial, err = f.o.wantedSerial()
		return err
	case err != nil:
		return err
	}
	f.before, f.serial = &h, h.Serial
	if f.o.serial == "" && h.Serial != 0 {
		return nil
	}
	want := f.o
	if want.serial == "" {
		want.serial = "new"
	}
	n, err := want.wantedSerial()
	if err != nil {
		return err
	}
	if h.Serial != 0 && h.Serial != n {
		return fmt.Errorf("the board answers and has serial number %s for its life: leave -serial away", serialText(h.Serial))
	}
	f.serial = n
	return nil
}

// idle refuses while a motor turns, or while the board knows of a vend what the
// ledger does not know yet.
func idle(ctx context.Context, l *line, open []openVend) error {
	s, err := l.status(ctx)
	if err != nil {
		return err
	}
	if s.Motion != board.MotionNone {
		return fmt.Errorf("slot %d: %s; try again when the motor stands still", s.Slot, motionWord(s.Motion).EN)
	}
	for _, v := range open {
		m, err := l.ask(ctx, board.Query{ID: v.id}, askLimit)
		if err != nil {
			return err
		}
		state, ok := m.(board.VendState)
		if !ok {
			return fmt.Errorf("vend %d: the board refuses to say what became of it: %v", v.id, m)
		}
		if !told(state) {
			return fmt.Errorf("%s still open and the board can tell how it ended: start kioskd, let it settle that, stop it and flash then", vendsText([]openVend{v}))
		}
	}
	return nil
}

// told reports that the board has no more to tell about a vend: only a person can.
func told(s board.VendState) bool {
	return s.State == board.StateForgotten || s.State == board.StateInterrupted && s.Drops == 0
}

func vendsText(open []openVend) string {
	var l []string
	for _, v := range open {
		l = append(l, fmt.Sprintf("vend %d in slot %d", v.id, v.slot))
	}
	if len(l) == 1 {
		return l[0] + " is"
	}
	return strings.Join(l, ", ") + " are"
}

// confirm asks a person.
func confirm(ctx context.Context, term terminal) error {
	fmt.Fprint(term.out, "Write it? Type yes: ")
	const slice = 200 * time.Millisecond // how long a signal may go unheeded
	for deadline := time.Now().Add(confirmLimit); time.Now().Before(deadline); {
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(term.in.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(slice.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("ask before writing: %w", err)
		}
		if n <= 0 {
			continue
		}
		var b [64]byte // a terminal gives a line at once
		k, err := term.in.Read(b[:])
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("ask before writing: %w", err)
		}
		if strings.TrimSpace(string(b[:k])) == "yes" {
			return nil
		}
		return errors.New("nothing was written, because nobody said yes; -yes says it beforehand")
	}
	return fmt.Errorf("nothing was written, because nobody said yes within %v", confirmLimit)
}

// enterLoader brings the board into its bootloader, or finds it there: a board that
// is blank, or whose flash was cut short, waits in it.
func (f *flashing) enterLoader(ctx context.Context, b *loader) error {
	limit := f.o.wait
	if f.before == nil {
		fmt.Fprintf(f.term.out, "Looking for the bootloader on %s, for %v at most. If the board has no power, switch it on.\n", f.p.port, limit)
	} else {
		limit = loaderLimit
		m, err := b.l.ask(ctx, board.Restart{Key: board.RestartKey}, restartLimit)
		// Without an answer it may have heard all the same, and the bootloader tells.
		if err != nil && !errors.Is(err, errSilent) {
			return err
		}
		if n, refused := m.(board.Nak); refused && n.Reason == board.NakBusy {
			return errors.New("a motor has just started; try again when it stands still")
		}
	}
	err := b.hold(ctx, limit)
	if errors.Is(err, errNoLoader) {
		return fmt.Errorf("%w: a board that has power and does not come into its bootloader is written with an ISP programmer", err)
	}
	return err
}

// meetAgain waits for the board to answer after it was restarted.
func (f *flashing) meetAgain(ctx context.Context) (board.HelloIs, error) {
	for deadline := time.Now().Add(backLimit); ; {
		h, err := f.greet(ctx)
		pause := lookEvery // the line may come back
		if errors.Is(err, errSilent) {
			pause = loaderIdle
		}
		if err == nil || time.Now().Add(pause).After(deadline) {
			return h, err
		}
		if err := sleep(ctx, pause); err != nil {
			return h, err
		}
	}
}

// greet opens the line for one hello.
func (f *flashing) greet(ctx context.Context) (board.HelloIs, error) {
	l, err := openLine(ctx, f.p.port, f.p.baud)
	if err != nil {
		return board.HelloIs{}, err
	}
	defer l.close()
	return l.hello(ctx, askLimit)
}

// verify makes sure that the board is what it was to become.
func (f *flashing) verify(ctx context.Context) error {
	h, err := f.meetAgain(ctx)
	if err != nil {
		return fmt.Errorf("written and read back, but the board does not come up within %v: %w\n%s", backLimit, err, f.again())
	}
	switch {
	case h.Build != f.fw.build:
		return fmt.Errorf("the board runs build %08x, not %08x\n%s", h.Build, f.fw.build, f.again())
	case h.Serial != f.serial:
		return fmt.Errorf("the board says that it is %s, not %s\n%s", serialText(h.Serial), serialText(f.serial), f.again())
	case f.before != nil && h.Highest < f.before.Highest:
		return fmt.Errorf("the board runs build %08x but has forgotten vends: its highest was %d and is %d. "+
			"Flashing does not touch that memory, so it has failed or was erased: put another board in. "+
			"The ledger will take this one for another board and asks it about no earlier vend", h.Build, f.before.Highest, h.Highest)
	}
	was, highest := "", protocol.VendID(0)
	if f.before != nil {
		was, highest = fmt.Sprintf(" (before: %08x)", f.before.Build), f.before.Highest
	}
	memory := fmt.Sprintf("its highest vend is %d", h.Highest)
	if f.before != nil && h.Highest == highest {
		memory += " as before"
	}
	fmt.Fprintf(f.term.out, "Done: board %s runs build %08x%s, and %s.\n", serialText(h.Serial), h.Build, was, memory)
	if f.p.kiosk != nil {
		fmt.Fprintln(f.term.out, "Start the machine again: systemctl start kioskd")
	}
	return nil
}

// standing finds out in what state a flash that failed has left the board.
func (f *flashing) standing(ctx context.Context) string {
	h, err := f.meetAgain(ctx)
	switch {
	case err != nil:
		return fmt.Sprintf("The board does not answer now (%v). Its memory of vends is untouched.\n%s", err, f.again())
	case f.before != nil && h.Build == f.before.Build && h.Build != f.fw.build:
		return fmt.Sprintf("The board runs build %08x as before, and its memory is untouched. Flash it again when the cause is mended.", h.Build)
	}
	return fmt.Sprintf("The board answers and says it is build %08x, but what was written may not be whole. Its memory is untouched. Do not use it: flash it again, and if that fails the same way put another board in.", h.Build)
}

// again is how to flash once more.
func (f *flashing) again() string {
	args := []string{"yaoju board flash"}
	if f.o.config != "" {
		args = append(args, "-config", f.o.config)
	}
	if f.o.port != "" {
		args = append(args, "-port", f.o.port)
	}
	args = append(args, "-hex", f.o.hex, "-blank", "-serial", serialText(f.serial))
	return "A board whose writing was cut short waits in its bootloader, whatever becomes of its power, and no motor moves. Flash it again:\n  " +
		strings.Join(args, " ") + "\nOnly if power failed in the few milliseconds in which its first page was erased and written may it not find that way any more: " +
		"if no bootloader answers, it is written with an ISP programmer."
}
