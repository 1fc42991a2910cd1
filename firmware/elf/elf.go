// Package elf runs the motor board's real firmware, as it was compiled for the
// chip, in boardsim: a simulated chip with the cabinet around it. It is for tests
// and the demo.
//
// It owns the process, the conversation with it, and the evidence of what motors,
// lock and memory really did. The cabinet has the words of its twin in
// daemon/machine/sim. It knows nothing of the rules of motion, which are the
// firmware's, nor of the daemon.
//
// Nothing waits in it but the kernel, so it works inside a testing/synctest
// bubble: while boardsim thinks, the time of the bubble stands still.
package elf

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

const (
	// answerLimit bounds each wait for boardsim: its slowest answer, to one run of
	// runStep, takes a fifth of a second, on a busy machine perhaps ten.
	answerLimit = 60 * time.Second

	// runStep is the most simulated time that is asked for at once.
	runStep = 10 * time.Second

	// sendMost is how many bytes go into one command: half of what boardsim takes.
	sendMost = 4096

	// answerLength is the longest line of boardsim: 4096 bytes of the serial line in hex.
	answerLength = 16384
)

// Options say which board it is. The zero value is one without a serial number,
// with an EEPROM that was never written.
type Options struct {
	Serial   uint64    // written into the firmware's flash; 0 leaves it unset
	Seed     uint64    // of what is left to chance: RAM at power on, torn bytes, bouncing switches; the low 32 bits count
	EEPROM   string    // file that keeps the EEPROM; empty is none
	ELF      string    // firmware; empty is firmware/out/motor.elf of this module
	Boardsim string    // simulator; empty is firmware/out/boardsim of this module
	Events   io.Writer // gets every event as boardsim says it, one JSON object a line; nil is nobody
}

// Board is a motor board that runs the firmware, and its cabinet. Its methods may
// be called from any goroutine. After the first thing that went wrong nothing
// happens any more: see Err.
type Board struct {
	elf    string
	events io.Writer
	cmd    *exec.Cmd
	link   string // to the pty, in real time; empty in lock step

	// turn holds one token: who took it out may talk to boardsim and use what follows.
	turn chan struct{}

	fd       int    // our end of the conversation; -1 is closed
	unread   []byte // what has come and is not a whole line yet
	err      error  // the first thing that went wrong
	now      time.Duration
	powered  bool
	received []byte // from the board's serial line
	seq      uint8  // of the last Ask
	seen     evidence
}

var errRealTime = errors.New("the simulated board lives in real time, and its line is a pty")

// event is a line of boardsim.
type event struct {
	T   int64 // microseconds
	Ev  string
	Why string
	On  bool
	Out string // hex

	Slot                          protocol.Slot
	Us                            int64
	Starts, Turns, Pieces, Fallen int

	MCUSR         uint8
	Addr          uint16
	Old, New, Got uint8

	EEPROMWrites int `json:"eeprom_writes"`
	Resets       int
	LineDrops    int `json:"line_drops"`
	StackFree    int `json:"stack_free"`
	Light        int
	Emitter      bool
	N            int
}

// Start starts a board in lock step: it has power, and its time passes in Run, Ask
// and Serve only. Close it.
func Start(o Options) (*Board, error) { return start(o) }

// StartPTY starts a board whose time is the real one and whose serial line is a
// pty, with a link to it at path. Run, Ask, Send, Received and Serve are not for
// it. Evidence that nobody asks for in some thousand vends is lost. Close it: that
// takes the link away.
func StartPTY(o Options, path string) (*Board, error) {
	b, err := start(o, "--pty", path)
	if err != nil {
		return nil, err
	}
	b.link = path
	return b, nil
}

func start(o Options, args ...string) (*Board, error) {
	for _, f := range []struct {
		name *string
		file string
	}{{&o.ELF, "motor.elf"}, {&o.Boardsim, "boardsim"}} {
		if *f.name != "" {
			continue
		}
		root, err := moduleRoot()
		if err != nil {
			return nil, err
		}
		*f.name = filepath.Join(root, "firmware", "out", f.file)
		if _, err := os.Stat(*f.name); err != nil {
			return nil, fmt.Errorf("start the simulated board: %w: run `make -C firmware all boardsim`", err)
		}
	}
	if o.EEPROM != "" {
		args = append(args, "--eeprom", o.EEPROM)
	}
	args = append(args, "--serial", strconv.FormatUint(o.Serial, 10), "--seed", strconv.FormatUint(o.Seed&0xffffffff, 10), o.ELF)

	b := &Board{elf: o.ELF, events: o.Events, cmd: exec.Command(o.Boardsim, args...), turn: make(chan struct{}, 1)}
	if err := b.launch(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Boardsim, err)
	}
	err := b.answers(1)
	b.turn <- struct{}{}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// launch starts the process with one end of a socket as its stdin and stdout. Our
// end is a plain blocking descriptor with a limit of the kernel's: os.File would
// wait in the runtime, whose timers are virtual inside a bubble, and exec's own
// pipes need goroutines.
func (b *Board) launch() error {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	b.fd = ends[0]
	theirs := os.NewFile(uintptr(ends[1]), "boardsim")
	defer theirs.Close() // the process has its own
	limit := syscall.NsecToTimeval(answerLimit.Nanoseconds())
	for _, opt := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		if err := syscall.SetsockoptTimeval(b.fd, syscall.SOL_SOCKET, opt, &limit); err != nil {
			syscall.Close(b.fd)
			return err
		}
	}
	b.cmd.Stdin, b.cmd.Stdout = theirs, theirs
	if err := b.cmd.Start(); err != nil {
		syscall.Close(b.fd)
		return err
	}
	return nil
}

// Close ends the process and waits for it. It returns what Err returns.
func (b *Board) Close() error {
	<-b.turn
	defer func() { b.turn <- struct{}{} }()
	if b.fd < 0 {
		return b.err
	}
	if b.say("quit", 1) != nil || b.awaitEnd() != nil {
		b.cmd.Process.Kill() // it has ended, or does so now: Wait tells in either case
	}
	syscall.Close(b.fd)
	b.fd = -1
	err := b.cmd.Wait()
	if b.link != "" {
		os.Remove(b.link) // boardsim has, unless it was killed
	}
	if err != nil {
		b.fail(fmt.Errorf("boardsim: %w", err))
	}
	return b.err
}

// Err returns the first thing that went wrong: boardsim has ended, the firmware
// crashed or did what no board may do, such as giving power to two motors.
func (b *Board) Err() error {
	<-b.turn
	defer func() { b.turn <- struct{}{} }()
	return b.err
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the firmware: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "firmware", "boardsim", "Makefile")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find the firmware: %s is not inside this module, so name ELF and Boardsim", dir)
		}
	}
}

// do gives boardsim commands, one a line, and lives through what it answers.
func (b *Board) do(commands ...string) error {
	<-b.turn
	defer func() { b.turn <- struct{}{} }()
	return b.tell(commands...)
}

// tell is do for who has the turn.
func (b *Board) tell(commands ...string) error {
	if b.err == nil && b.fd < 0 {
		b.err = errors.New("the simulated board was closed")
	}
	if b.err != nil {
		return b.err
	}
	var all []byte
	for i, c := range commands {
		if i > 0 {
			all = append(all, '\n')
		}
		all = append(all, c...)
	}
	return b.say(string(all), len(commands))
}

// say writes n commands and reads their answers.
func (b *Board) say(commands string, n int) error {
	for out := []byte(commands + "\n"); len(out) > 0; {
		k, err := syscall.Write(b.fd, out)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return b.fail(fmt.Errorf("boardsim takes no command: %w", err))
		}
		out = out[k:]
	}
	return b.answers(n)
}

// answers reads until n commands are answered.
func (b *Board) answers(n int) error {
	for n > 0 {
		line, err := b.line()
		if err != nil {
			return b.fail(err)
		}
		over, err := b.notice(line)
		if err != nil {
			return b.fail(err)
		}
		if over {
			n--
		}
	}
	return b.err
}

func (b *Board) fail(err error) error {
	if b.err == nil {
		b.err = err
	}
	return b.err
}

// line returns the next line of boardsim.
func (b *Board) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(b.unread, '\n'); i >= 0 {
			line := b.unread[:i+1]
			b.unread = b.unread[i+1:]
			return line, nil
		}
		if len(b.unread) > answerLength {
			return nil, fmt.Errorf("boardsim: a line of more than %d bytes", answerLength)
		}
		if err := b.read(); err != nil {
			return nil, err
		}
	}
}

// read waits for more bytes of boardsim.
func (b *Board) read() error {
	var chunk [4 * answerLength]byte
	for {
		n, err := syscall.Read(b.fd, chunk[:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			b.cmd.Process.Kill() // it hangs; Close waits for its end
			return fmt.Errorf("boardsim has not answered for %v", answerLimit)
		case err != nil:
			return fmt.Errorf("boardsim: %w", err)
		case n == 0:
			return errors.New("boardsim has ended")
		}
		b.unread = append(b.unread, chunk[:n]...)
		return nil
	}
}

// awaitEnd reads until the process has closed its end.
func (b *Board) awaitEnd() error {
	for {
		var chunk [256]byte
		n, err := syscall.Read(b.fd, chunk[:])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// notice takes one event, and says whether it ends the answer to a command.
func (b *Board) notice(line []byte) (over bool, err error) {
	if b.events != nil {
		if _, err := b.events.Write(line); err != nil {
			return false, fmt.Errorf("pass on an event of boardsim: %w", err)
		}
	}
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return false, fmt.Errorf("boardsim said %q: %w", line, err)
	}
	at := time.Duration(e.T) * time.Microsecond
	switch e.Ev {
	case "error":
		return true, fmt.Errorf("boardsim does not take a command: %s", e.Why)
	case "fatal", "FAULT":
		return false, fmt.Errorf("the simulated board at %v: %s", at, e.Why)
	case "lost":
		if b.link == "" {
			return false, fmt.Errorf("the simulated board: %d events were not fetched in time", e.N)
		}
	case "ok":
		b.now, b.powered = at, e.On
		out, err := hex.DecodeString(e.Out)
		b.received = append(b.received, out...)
		return true, err
	}
	b.seen.take(at, e)
	return false, nil
}

// Now returns how long ago the board was started, in its own time.
func (b *Board) Now() time.Duration {
	b.look()
	defer b.looked()
	return b.now
}

// Powered reports whether the board has power.
func (b *Board) Powered() bool {
	b.look()
	defer b.looked()
	return b.powered
}

// look takes the turn and makes sure that what is known is of now.
func (b *Board) look() {
	<-b.turn
	if b.link != "" {
		b.tell("run 0") // no time passes; an error stays in b.err
	}
}

// looked gives the turn back.
func (b *Board) looked() { b.turn <- struct{}{} }

// Run lets d pass for the board, or less when it loses power meanwhile: look at
// Now. Without power at the start all of d passes.
func (b *Board) Run(d time.Duration) error {
	<-b.turn
	defer b.looked()
	return b.run(d)
}

// run is Run for who has the turn.
func (b *Board) run(d time.Duration) error {
	if b.link != "" {
		return b.fail(errRealTime)
	}
	was := b.powered
	for end := b.now + d; b.now < end && b.powered == was; {
		if err := b.tell(runFor(min(end-b.now, runStep))); err != nil {
			return err
		}
	}
	return b.err
}

// runFor is the command for d. boardsim counts microseconds, and a part of one is one.
func runFor(d time.Duration) string {
	return "run " + strconv.FormatInt(max(1, d.Microseconds()), 10)
}

// Send puts bytes on the line to the board. They arrive one by one, at the pace of
// the line, while time passes.
func (b *Board) Send(p []byte) {
	<-b.turn
	defer b.looked()
	b.send(p)
}

// send is Send for who has the turn. An error stays in b.err.
func (b *Board) send(p []byte) {
	for len(p) > 0 {
		n := min(len(p), sendMost)
		b.tell("send " + hex.EncodeToString(p[:n]))
		p = p[n:]
	}
}

// Received returns what the board has sent since it was last asked, and keeps none of it.
func (b *Board) Received() []byte {
	<-b.turn
	defer b.looked()
	p := b.received
	b.received = nil
	return p
}

// Ask sends m once, with a seq of its own, and lets time pass until its answer is
// there, for limit at most. What the board said before, or says to anything else,
// is lost.
func (b *Board) Ask(m board.Message, limit time.Duration) (board.Message, error) {
	<-b.turn
	defer b.looked()
	if b.link != "" {
		return nil, b.fail(errRealTime)
	}
	b.seq++
	b.received = nil
	b.send(board.Append([]byte{0}, b.seq, m))
	for end := b.now + limit; b.now < end; {
		if err := b.tell(runFor(min(end-b.now, runStep)) + " frame"); err != nil {
			return nil, fmt.Errorf("ask the simulated board %T: %w", m, err)
		}
		if answer, err := b.answer(); answer != nil || err != nil {
			return answer, err
		}
		if !b.powered {
			return nil, fmt.Errorf("ask the simulated board %T: it has no power", m)
		}
	}
	return nil, fmt.Errorf("ask the simulated board %T: no answer within %v", m, limit)
}

// answer takes what has been received up to the answer to the last question; nil,
// nil is none.
func (b *Board) answer() (board.Message, error) {
	for {
		i := bytes.IndexByte(b.received, 0)
		if i < 0 {
			return nil, nil
		}
		f, err := board.Decode(b.received[:i])
		b.received = b.received[i+1:]
		if err == nil && f.Seq == b.seq {
			return f.Parse()
		}
	}
}
