package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine/sim"
	"yaoju/daemon/port/pty"
	"yaoju/firmware/bootsim"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

const (
	oldBuild  = 0x01010101
	newBuild  = 0x5eed0002
	ownSerial = 0x0000a17e00c0ffee
)

// anImage is firmware that does nothing but say who it is. No page of it is that of
// another build.
func anImage(build uint32, proto uint8, serial uint64) []byte {
	image := make([]byte, identityAt+identityLen+1000)
	for i := range image {
		image[i] = byte(i*13) ^ byte(build>>(i%4*8))
	}
	id := image[identityAt:]
	copy(id, identityMagic)
	binary.LittleEndian.PutUint32(id[identityBuild:], build)
	id[identityProto] = proto
	binary.LittleEndian.PutUint64(id[identitySerial:], serial)
	return image
}

// isWhole reports whether flash holds all pages of one image.
func isWhole(flash []byte) bool {
	id := flash[identityAt:]
	image := anImage(binary.LittleEndian.Uint32(id[identityBuild:]), id[identityProto], serialIn(flash))
	return bytes.HasPrefix(flash, image)
}

const unset = 1<<64 - 1 // the serial number of an image that is nobody's yet

func hexFile(t *testing.T, image []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := writeHex(&b, image); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "motor.hex")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shop is a machine with its board: a twin whose build and serial number are those
// of the image in its chip.
type shop struct {
	t      *testing.T
	twin   *sim.Board
	chip   *bootsim.Chip
	socket *pty.Socket
	dir    string
	config string
	served sync.WaitGroup
	cancel context.CancelFunc
}

// openShop plugs a board into a machine whose kioskd does not run. The board has
// firmware oldBuild and ownSerial, unless opt says otherwise.
func openShop(t *testing.T, opt bootsim.Options) *shop {
	t.Helper()
	dir := t.TempDir()
	s := &shop{t: t, twin: sim.New(sim.Options{Turn: 2 * time.Second}), dir: dir, socket: pty.NewSocket(filepath.Join(dir, "board")), config: filepath.Join(dir, "kioskd.toml")}
	opt.App = s.twin
	if opt.Image == nil {
		opt.Image = anImage(oldBuild, board.Version, ownSerial)
	}
	if opt.Hello == nil {
		opt.Hello = sayImage
	}
	if opt.Whole == nil {
		opt.Whole = isWhole
	}
	s.chip = bootsim.New(opt)
	err := writeConfig(kioskConfig, s.config, map[string]any{"Machine": "m-0001", "Data": filepath.Join(dir, "kiosk"), "Screen": "127.0.0.1:8080", "Frame": "",
		"Board": s.socket.Path(), "Reader": filepath.Join(dir, "reader"), "Broker": "tcp://127.0.0.1:1883", "TLS": "off",
		"Status": filepath.Join(dir, statusFile), "Key": base64.StdEncoding.EncodeToString(make([]byte, ed25519.PublicKeySize))})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "kiosk"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.plug()
	t.Cleanup(func() {
		s.unplug()
		if w := s.chip.Wrong(); len(w) > 0 {
			t.Errorf("the programmer did what it must not: %v", w)
		}
	})
	return s
}

// sayImage lets the firmware say of itself what its image says.
func sayImage(flash []byte, h board.HelloIs) board.HelloIs {
	id := flash[identityAt:]
	h.Build = binary.LittleEndian.Uint32(id[identityBuild:])
	if h.Serial = binary.LittleEndian.Uint64(id[identitySerial:]); h.Serial == unset {
		h.Serial = 0
	}
	return h
}

func (s *shop) plug() {
	s.t.Helper()
	line, err := s.socket.Plug()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.served.Go(func() {
		if err := s.chip.Serve(ctx, line); err != nil && ctx.Err() == nil {
			s.t.Logf("the line ended: %v", err)
		}
	})
}

func (s *shop) unplug() {
	s.cancel()
	if err := s.socket.Unplug(); err != nil {
		s.t.Error(err)
	}
	s.served.Wait()
}

// run runs one command, with the machine's configuration.
func (s *shop) run(args ...string) (code int, out, complaint string) {
	s.t.Helper()
	return runBoard(s.t, "", append(args, "-config", s.config)...)
}

// runBoard runs one command; a person types what is typed.
func runBoard(t *testing.T, typed string, args ...string) (code int, out, complaint string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var o, e bytes.Buffer
	code = boardCommand(ctx, args, terminal{in: r, out: &o, err: &e})
	return code, o.String(), e.String()
}

// want fails the test unless a command ended so and said these words.
func want(t *testing.T, what string, code int, said string, wantCode int, words ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("%s: exit code %d, want %d; it said:\n%s", what, code, wantCode, said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("%s: it did not say %q, but:\n%s", what, w, said)
		}
	}
}

// vendOnce lets the board turn for one vend, and returns at once.
func (s *shop) vendOnce(id protocol.VendID, slot protocol.Slot) {
	s.t.Helper()
	l, err := openLine(s.t.Context(), s.socket.Path(), board.Baud)
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.close()
	m, err := l.ask(s.t.Context(), board.Vend{ID: id, Slot: slot}, askLimit)
	if v, ok := m.(board.VendState); err != nil || !ok || v.State != board.StateRunning {
		s.t.Fatalf("vend %d: %v, %v", id, m, err)
	}
}

func (s *shop) still() {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.twin.Status().Motion != board.MotionNone; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("the motor does not come to rest")
		}
	}
}

// A board is flashed, keeps its serial number and its memory,
// and says that it is the new one.
func TestFlash(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{})
	s.twin.Load(3, 5)
	s.vendOnce(17, 3)
	s.still()
	file := hexFile(t, anImage(newBuild, board.Version, unset))
	code, out, complaint := s.run("flash", "-hex", file, "-yes")
	want(t, "flash", code, out+complaint, 0, "Done: board 0000a17e00c0ffee runs build 5eed0002 (before: 01010101), and its highest vend is 17 as before.")
	if got, want := s.chip.Flash()[:len(anImage(0, 0, 0))], anImage(newBuild, board.Version, ownSerial); !bytes.Equal(got, want) {
		t.Error("the flash holds something else than the image with the board's serial number")
	}
	code, out, complaint = s.run("info")
	want(t, "info", code, out+complaint, 0, "Firmware build: 5eed0002, protocol 1", "Highest vend: 17", "Serial number: 0000a17e00c0ffee")
}

// The real firmware goes the same way.
func TestFlashFirmware(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "make", "-C", "../../firmware", "all", "OUT="+dir).CombinedOutput(); err != nil {
		t.Fatalf("make -C firmware all: %v\n%s", err, out)
	}
	file := filepath.Join(dir, "motor.hex")
	fw, err := openFirmware(file)
	if err != nil {
		t.Fatal(err)
	}
	if fw.build == 0 || serialIn(fw.image) != unset {
		t.Errorf("motor.hex is build %08x with serial number %x, want a build and no serial number", fw.build, serialIn(fw.image))
	}
	s := openShop(t, bootsim.Options{Whole: func([]byte) bool { return true }})
	code, out, complaint := s.run("flash", "-hex", file, "-yes")
	want(t, "flash", code, out+complaint, 0, "Done: board 0000a17e00c0ffee runs build "+strconv.FormatUint(uint64(fw.build)|1<<32, 16)[1:])
	if serialIn(s.chip.Flash()) != ownSerial {
		t.Error("the board lost its serial number")
	}
}

func serialIn(flash []byte) uint64 {
	return binary.LittleEndian.Uint64(flash[identityAt+identitySerial:])
}

// A board without a serial number gets one that nobody had; one that is given by
// hand is taken, and never over one that is there.
func TestFlashSerial(t *testing.T) {
	t.Parallel()
	file := hexFile(t, anImage(newBuild, board.Version, unset))
	s := openShop(t, bootsim.Options{Image: anImage(oldBuild, board.Version, unset)})
	code, out, complaint := s.run("flash", "-hex", file, "-yes")
	want(t, "flash", code, out+complaint, 0, "Done: board ")
	got := serialIn(s.chip.Flash())
	if got == 0 || got >= 1<<63 {
		t.Errorf("the board got serial number %016x, want 63 bits and not 0", got)
	}
	code, out, complaint = s.run("flash", "-hex", file, "-yes", "-serial", "0000000000001234")
	want(t, "another serial number", code, out+complaint, 1, "the board answers and has serial number "+serialText(got))
	code, out, complaint = s.run("flash", "-hex", file, "-yes", "-serial", serialText(got))
	want(t, "its own serial number", code, out+complaint, 0, "Done: board "+serialText(got))

	s = openShop(t, bootsim.Options{Image: anImage(oldBuild, board.Version, unset)})
	code, out, complaint = s.run("flash", "-hex", file, "-yes", "-serial", "0000000000001234")
	want(t, "serial number by hand", code, out+complaint, 0, "Done: board 0000000000001234")
}

// Without -yes a person is asked.
func TestFlashAsks(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{})
	args := []string{"flash", "-config", s.config, "-hex", hexFile(t, anImage(newBuild, board.Version, unset))}
	for _, typed := range []string{"", "y\n", "no\n"} {
		code, out, complaint := runBoard(t, typed, args...)
		want(t, "typed "+strconv.Quote(typed), code, out+complaint, 1, "build 01010101 becomes build 5eed0002", "nothing was written")
	}
	code, out, complaint := runBoard(t, "yes\n", args...)
	want(t, "typed yes", code, out+complaint, 0, "Done: board")
}

// What must not be flashed, and a machine that must not be flashed now, is refused
// before anything is touched; the words say what to do.
func TestFlashRefuses(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{})
	good := hexFile(t, anImage(newBuild, board.Version, unset))
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "bad.hex")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	nobody := anImage(newBuild, board.Version, unset)
	copy(nobody[identityAt:], "SOMEBODY")
	large := append(anImage(newBuild, board.Version, unset), make([]byte, loaderAt)...)
	for _, c := range []struct {
		name  string
		code  int
		args  []string
		words string
	}{
		{"no words", 2, []string{"flash"}, "-hex motor.hex"},
		{"flags nobody knows", 2, []string{"flash", "-hexx", good}, "flag provided but not defined"},
		{"further words", 2, []string{"flash", "-hex", good, "now"}, `"now"`},
		{"no such file", 1, []string{"flash", "-hex", "/nowhere/motor.hex"}, "no such file"},
		{"not a HEX file", 1, []string{"flash", "-hex", file("MZ not hex\n")}, "line 1: not a record of an Intel HEX file"},
		{"cut short", 1, []string{"flash", "-hex", file(string(text[:len(text)/2]))}, "bad.hex: line "},
		{"without an end", 1, []string{"flash", "-hex", file(strings.Replace(string(text), ":00000001FF\n", "", 1))}, "the end record is missing"},
		{"damaged", 1, []string{"flash", "-hex", file(strings.Replace(string(text), "1A", "1B", 1))}, "the checksum is wrong"},
		{"other firmware", 1, []string{"flash", "-hex", hexFile(t, nobody)}, "does not say who it is"},
		{"too short", 1, []string{"flash", "-hex", hexFile(t, []byte{1, 2, 3})}, "does not say who it is"},
		{"another protocol", 1, []string{"flash", "-hex", hexFile(t, anImage(newBuild, 9, unset))}, "protocol version 9 and this program version 1"},
		{"over the bootloader", 1, []string{"flash", "-hex", hexFile(t, large)}, "the bootloader begins at 0x3e000"},
		{"blank without a serial number", 2, []string{"flash", "-hex", good, "-blank"}, "by that number the ledger knows whose memory it is"},
		{"a serial number that is none", 2, []string{"flash", "-hex", good, "-serial", "17"}, "want 16 hexadecimal digits"},
		{"a serial number of 64 bits", 2, []string{"flash", "-hex", good, "-serial", "8000000000000000"}, "the first below 8"},
		{"no port", 1, []string{"flash", "-hex", good, "-port", filepath.Join(s.dir, "nothing")}, "is the device plugged in?"},
		{"a port that is a file", 1, []string{"flash", "-hex", good, "-port", good}, "not a serial line"},
		{"a wait without end", 2, []string{"flash", "-hex", good, "-wait", "0s"}, "-wait: want"},
		{"info without a board", 2, []string{"info", "-lang", "fr"}, "want zh or en"},
		{"unknown command", 2, []string{"burn"}, "unknown command"},
		{"info of a missing port", 1, []string{"info", "-port", filepath.Join(s.dir, "nothing")}, "is the device plugged in?"},
	} {
		code, out, complaint := runBoard(t, "", append(c.args[:1:1], append([]string{"-config", s.config}, c.args[1:]...)...)...)
		want(t, c.name, code, out+complaint, c.code, c.words)
	}
	code, _, complaint := runBoard(t, "", "info")
	want(t, "info of nothing", code, complaint, 2, "say which board")
	code, _, complaint = runBoard(t, "")
	want(t, "no command", code, complaint, 2, "usage: yaoju board")
	code, _, complaint = runBoard(t, "", "flash", "-h")
	want(t, "help", code, complaint, 0, "-blank")
	code, _, complaint = runBoard(t, "", "info", "-config", good)
	want(t, "a configuration that is none", code, complaint, 1, good)

	// kioskd holds its data folder.
	lock, err := os.OpenFile(filepath.Join(s.dir, "kiosk", "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"flash", "-hex", good, "-yes"}, {"info"}} {
		code, out, complaint := s.run(command...)
		want(t, command[0]+" while kioskd runs", code, out+complaint, 1, "stop kioskd first: systemctl stop kioskd")
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}

	// A motor turns.
	s.twin.Load(3, 5)
	s.vendOnce(17, 3)
	code, out, complaint := s.run("flash", "-hex", good, "-yes")
	want(t, "a motor turns", code, out+complaint, 1, "slot 3: vending; try again when the motor stands still")
	s.still()

	if got := s.chip.Flash()[:0x4000]; !bytes.Equal(got, anImage(oldBuild, board.Version, ownSerial)[:0x4000]) {
		t.Error("a refusal changed the flash")
	}
}

// While the ledger waits for what the board can tell, the board is not flashed. What
// only a person can tell does not keep it from being flashed.
func TestFlashOpenVend(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{})
	good := hexFile(t, anImage(newBuild, board.Version, unset))
	zone := time.UTC
	stock := []bay{bayOf(3, "condom-52", 3, "2040-01-31")}
	path := filepath.Join(s.dir, "kiosk", "ledger.db")
	if err := stockLedger(t.Context(), path, desired("m-0001", stock, time.Now()), stock, zone, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), ledger.Options{Path: path, Machine: "m-0001", Software: "test", Zone: zone, Log: slog.New(slog.DiscardHandler), Synced: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	v, err := l.Reserve(t.Context(), dispense.Order{Marks: dispense.Marks{Current: dispense.Mark{1}}, Product: "condom-52"})
	if err != nil {
		t.Fatal(err)
	}
	// Power fails under kioskd: its journal is still beside the file.
	before := snapshot(t, filepath.Dir(path))
	code, out, complaint := s.run("flash", "-hex", good, "-yes")
	want(t, "reserved and never sent", code, out+complaint, 1, "vend 1 in slot 3 is still open", "start kioskd")
	if after := snapshot(t, filepath.Dir(path)); !maps.Equal(before, after) {
		t.Errorf("the ledger's folder was changed: %v, before %v", after, before)
	}

	s.twin.Load(3, 5)
	s.vendOnce(v.ID, 3)
	s.still()
	code, out, complaint = s.run("flash", "-hex", good, "-yes")
	want(t, "ended on the board", code, out+complaint, 1, "the board can tell how it ended")

	if err := l.Settle(t.Context(), v.ID, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}); err != nil {
		t.Fatal(err)
	}
	if v, err = l.Reserve(t.Context(), dispense.Order{Marks: dispense.Marks{Current: dispense.Mark{2}}, Product: "condom-52"}); err != nil {
		t.Fatal(err)
	}
	s.twin.CutAt(sim.MidTurn, board.ResetPower, time.Second)
	s.vendOnce(v.ID, 3)
	for boot, deadline := s.twin.Status().Boot, time.Now().Add(20*time.Second); s.twin.Status().Boot == boot; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the board does not come back after the cut")
		}
	}
	code, out, complaint = s.run("flash", "-hex", good, "-yes")
	want(t, "interrupted", code, out+complaint, 0, "Done: board")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(path, []byte("this was a ledger"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, complaint = s.run("flash", "-hex", good, "-yes")
	want(t, "a damaged ledger", code, out+complaint, 1, "damaged", "start kioskd once")
}

// snapshot is the size and time of every file in a folder but the lock.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != "lock" {
			files[e.Name()] = info.ModTime().String() + " " + strconv.FormatInt(info.Size(), 10)
		}
	}
	return files
}

// The cable is pulled in mid-flash. The board then waits in its bootloader until it
// is flashed again.
func TestFlashCablePulled(t *testing.T) {
	t.Parallel()
	var once sync.Once
	reached, out := make(chan struct{}), make(chan struct{})
	s := openShop(t, bootsim.Options{Page: func(addr int, _ []byte) bootsim.Power {
		if addr == 0x2000 {
			once.Do(func() {
				close(reached)
				<-out
			})
		}
		return bootsim.Steady
	}})
	var pulling sync.WaitGroup
	pulling.Go(func() {
		<-reached
		s.cancel()
		if err := s.socket.Unplug(); err != nil {
			t.Error(err)
		}
		close(out)
		s.served.Wait()
	})
	file := hexFile(t, anImage(newBuild, board.Version, unset))
	code, said, complaint := s.run("flash", "-hex", file, "-yes")
	pulling.Wait()
	want(t, "flash", code, said+complaint, 1, "write the page at 0x02000", "waits in its bootloader", "no motor moves", "Its memory of vends is untouched", "ISP programmer",
		"yaoju board flash -config "+s.config+" -hex "+file+" -blank -serial 0000a17e00c0ffee")

	s.plug()
	code, said, complaint = s.run("info")
	want(t, "info", code, said+complaint, 1, "no motor board answers on", "has it power", "-blank")
	code, said, complaint = s.run("flash", "-hex", file, "-yes")
	want(t, "flash again without -blank", code, said+complaint, 1, "write it with -blank -serial N")
	code, said, complaint = s.run("flash", "-hex", file, "-yes", "-blank", "-serial", "0000a17e00c0ffee")
	want(t, "flash again", code, said+complaint, 0, "Done: board 0000a17e00c0ffee runs build 5eed0002")
}

// The board's power fails in mid-flash, and when it is back the board waits to be
// flashed again, also in its first page, but for the moment in which that is written.
func TestFlashPowerFails(t *testing.T) {
	t.Parallel()
	file := hexFile(t, anImage(newBuild, board.Version, unset))
	for _, c := range []struct {
		name  string
		first bool // page; else one in the middle
		power bootsim.Power
		code  int // of flashing again
		words string
	}{
		{"middle", false, bootsim.CutTorn, 0, "Done: board 0000a17e00c0ffee runs build 5eed0002"},
		{"first page", true, bootsim.CutErased, 1, "written with an ISP programmer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			failed := false
			s := openShop(t, bootsim.Options{Page: func(addr int, _ []byte) bootsim.Power {
				if failed || c.first != (addr == 0) {
					return bootsim.Steady
				}
				failed = true
				return c.power
			}})
			code, out, complaint := s.run("flash", "-hex", file, "-yes")
			want(t, "flash", code, out+complaint, 1, "the bootloader did not answer", "does not answer now", "waits in its bootloader", "-blank")
			s.chip.Reset()
			code, out, complaint = s.run("flash", "-hex", file, "-yes", "-blank", "-serial", "0000a17e00c0ffee", "-wait", "2s")
			want(t, "flash again", code, out+complaint, c.code, c.words)
		})
	}
}

// A blank chip waits in its bootloader for the first firmware.
func TestFlashBlank(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{Image: []byte{}})
	code, out, complaint := s.run("flash", "-hex", hexFile(t, anImage(newBuild, board.Version, unset)), "-yes", "-blank", "-serial", "new")
	want(t, "flash", code, out+complaint, 0, "a board that does not answer becomes build 5eed0002", "Done: board ")
}

// Flash that does not hold what was written is found by reading it back.
func TestFlashWorn(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{Page: func(addr int, page []byte) bootsim.Power {
		if addr == 0x1000 {
			page[7] = 0
		}
		return bootsim.Steady
	}})
	code, out, complaint := s.run("flash", "-hex", hexFile(t, anImage(newBuild, board.Version, unset)), "-yes")
	want(t, "flash", code, out+complaint, 1, "0x01007 holds 00", "the flash is worn", "does not answer now", "Flash it again")
}

// Without a bootloader nothing is written and nothing is lost.
func TestFlashNoLoader(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{NoLoader: true})
	code, out, complaint := s.run("flash", "-hex", hexFile(t, anImage(newBuild, board.Version, unset)), "-yes")
	want(t, "flash", code, out+complaint, 1, "nothing was written: no bootloader answered", "ISP programmer", "runs build 01010101 as before")
}

// A board that comes back with less memory than it had is not called done.
func TestFlashForgets(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{Hello: func(flash []byte, h board.HelloIs) board.HelloIs {
		h = sayImage(flash, h)
		if h.Build == newBuild {
			h.Highest = 3
		}
		return h
	}})
	s.twin.Load(3, 5)
	s.vendOnce(17, 3)
	s.still()
	code, out, complaint := s.run("flash", "-hex", hexFile(t, anImage(newBuild, board.Version, unset)), "-yes")
	want(t, "flash", code, out+complaint, 1, "has forgotten vends: its highest was 17 and is 3")
	if strings.Contains(out, "Done") {
		t.Errorf("it said %q", out)
	}
}

// The wrong firmware came out of it, or the wrong board.
func TestFlashNotWhatWasWritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words string
		lie   func(*board.HelloIs)
	}{
		{"the board runs build 00000007, not 5eed0002", func(h *board.HelloIs) { h.Build = 7 }},
		{"the board says that it is 0000000000000007, not 0000a17e00c0ffee", func(h *board.HelloIs) { h.Serial = 7 }},
	} {
		s := openShop(t, bootsim.Options{Hello: func(flash []byte, h board.HelloIs) board.HelloIs {
			if h = sayImage(flash, h); h.Build == newBuild {
				c.lie(&h)
			}
			return h
		}})
		code, out, complaint := s.run("flash", "-hex", hexFile(t, anImage(newBuild, board.Version, unset)), "-yes")
		want(t, c.words, code, out+complaint, 1, c.words)
	}
}

// A line on which something else chatters is not flashed.
func TestFlashGarbage(t *testing.T) {
	t.Parallel()
	line, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	var chatter sync.WaitGroup
	chatter.Go(func() {
		for {
			if _, err := line.Write([]byte("ok \x1b\x00\x0e\xff\x81 temp=21.5\r\n")); err != nil {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	defer func() {
		line.Close()
		chatter.Wait()
	}()
	file := hexFile(t, anImage(newBuild, board.Version, unset))
	s := openShop(t, bootsim.Options{}) // for its configuration
	code, out, complaint := s.run("flash", "-hex", file, "-yes", "-port", line.Path())
	want(t, "flash", code, out+complaint, 1, "is not its language", "right line")
	code, out, complaint = s.run("flash", "-hex", file, "-yes", "-port", line.Path(), "-blank", "-serial", "new", "-wait", "1s")
	want(t, "flash as blank", code, out+complaint, 1, "nothing was written: no bootloader answered")
	code, out, complaint = s.run("info", "-port", line.Path())
	want(t, "info", code, out+complaint, 1, "is not its language")
}

// The report says in both languages how a board stands.
func TestBoardInfo(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{})
	s.twin.Adjust(func(c *sim.Cabinet) { c.DoorOpen = true })
	code, out, complaint := runBoard(t, "", "info", "-port", s.socket.Path())
	want(t, "info", code, out+complaint, 0, "Serial number: 0000a17e00c0ffee", "Firmware build: 01010101, protocol 1", "the standard one (60 single slots)",
		"Fitted slots: 1-60", "Slots not at home: none", "Service door: open", "Drop sensor: good", "Climate: 21.5 °C, 45 %", "Motors: still", "Fault that stops all: none", "Journal: good")
	code, out, complaint = s.run("info", "-lang", "zh")
	want(t, "info in Chinese", code, out+complaint, 0, "序列号: 0000a17e00c0ffee", "维护门: 开", "已装货道: 1-60", "锁定故障: 无")
	code, out, complaint = s.run("info", "-json")
	want(t, "info as JSON", code, complaint, 0)
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if slots, ok := got["fitted"].([]any); !ok || len(slots) != 60 || slots[59] != 60.0 {
		t.Errorf("fitted is %v, want a list of 60 numbers", got["fitted"])
	}
	for key, want := range map[string]any{"serial": "0000a17e00c0ffee", "build": "01010101", "protocol": 1.0, "config": "machine", "door_open": true,
		"latched": nil, "journal_ok": true, "motion": "none", "reset_cause": "power", "highest_vend": 0.0} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}

// With a machine's configuration the report says whether the board has it.
func TestBoardInfoConfig(t *testing.T) {
	t.Parallel()
	s := openShop(t, bootsim.Options{})
	code, out, complaint := s.run("info")
	want(t, "the machine's", code, out+complaint, 0, ", this machine's\n")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	write := func(board string) {
		if err := os.WriteFile(s.config, []byte(strings.Replace(string(text), "[board]\n", "[board]\n"+board, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("slots = [\"1-10\", \"21\"]\npairs = [1]\n")
	code, out, complaint = s.run("info")
	want(t, "another", code, out+complaint, 0, ", not this machine's: kioskd sends that")
	code, out, complaint = s.run("info", "-json")
	want(t, "another, as JSON", code, out+complaint, 0, `"config": "foreign"`)
	write("slots = [\"1-61\"]\n")
	code, out, complaint = s.run("info")
	want(t, "a mistake", code, out+complaint, 1, "board.slots[0]: slot 61 does not exist")
}

// Everything a board can say has words.
func TestBoardReport(t *testing.T) {
	t.Parallel()
	h := board.HelloIs{Proto: 1, ConfigHash: 7, ResetCause: board.ResetWatchdog, Fitted: board.Slots(1, 2, 3, 10, 59, 60)}
	s := board.StatusIs{NotHome: board.Slots(2, 10), Motion: board.MotionHome, Slot: 10, Latched: uint8(protocol.FaultRunaway), LatchedSlot: 2, JournalBad: true,
		LockOpen: true, SensorDark: true, UptimeMS: 61_400}
	for _, c := range []struct {
		h     board.HelloIs
		s     board.StatusIs
		zh    bool
		words []string
	}{
		{h, s, false, []string{"Serial number: none was ever set", "00000007, not the standard one", "Fitted slots: 1-3, 10, 59-60", "Slots not at home: 2, 10", "firmware hung", "Running for: 1m1s",
			"Lock: has power", "Drop sensor: blocked", "Climate: no reading", "Motors: homing slot 10", "Fault that stops all: F-005 Motor did not stop at home and was cut off (slot 2)", "takes no records"}},
		{h, s, true, []string{"序列号: 未设置", "不是标准配置", "看门狗", "F-005 电机未停回原位，已强制断电（货道 2）", "货道 10 正在回原位", "无法写入"}},
		{board.HelloIs{ResetCause: 77}, board.StatusIs{Curtain: board.CurtainBlind, Latched: 99, Motion: 9}, false,
			[]string{"none was ever stored", "unknown (77)", "blind", "F-099 Unknown fault", "unknown motion (9)", "Fitted slots: none"}},
	} {
		var out bytes.Buffer
		if err := newReport(place{port: "/dev/ttyAMA0"}, c.h, c.s).print(&out, c.zh); err != nil {
			t.Fatal(err)
		}
		want(t, "report", 0, out.String(), 0, c.words...)
	}
}

// The identity is where the firmware puts it.
func TestIdentityHeader(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../firmware/core/identity.h")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^#define (IDENTITY_\w+)\s+(".*"|\w+)`).FindAllStringSubmatch(string(text), -1) {
		got[m[1]] = strings.TrimSuffix(m[2], "UL")
	}
	for name, want := range map[string]string{"IDENTITY_AT": "0x3fe0", "IDENTITY_MAGIC": `"YAOJU\0MB"`, "IDENTITY_BUILD": "8", "IDENTITY_PROTO": "12", "IDENTITY_SERIAL": "16", "IDENTITY_LEN": "24"} {
		if got[name] != want {
			t.Errorf("%s is %s in identity.h, want %s", name, got[name], want)
		}
	}
	if identityAt != 0x3fe0 || identityMagic != "YAOJU\x00MB" || identityBuild != 8 || identityProto != 12 || identitySerial != 16 || identityLen != 24 {
		t.Error("board_hex.go has other numbers")
	}
}

func TestReadHex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "end record is missing"},
		{"end alone", ":00000001FF\n", ""},
		{"carriage returns, blank lines, small letters", "\r\n:02000000aabb99\r\n:00000001ff\r\n\n", ""},
		{"start addresses", ":0400000300003800C1\n:0400000500000000F7\n:00000001FF\n", ""},
		{"segment", ":020000021000EC\n:0100000055AA\n:00000001FF\n", ""},
		{"after the end", ":00000001FF\n:00000001FF\n", "goes on after its end"},
		{"checksum", ":0100000055AB\n", "line 1: the checksum is wrong"},
		{"length", ":0200000055AA\n", "not the length"},
		{"odd digits", ":0100000055A\n", "line 1: "},
		{"no hex", ":01000000GGAA\n", "line 1: "},
		{"unknown kind", ":00000006FA\n", "kind 6"},
		{"short segment", ":0100000210ED\n", "want 2"},
		{"twice", ":0100000055AA\n:0100000055AA\n", "line 2: the byte at 0x0 was given before"},
		{"far away", ":020000040081" + "79\n:0100000055AA\n", "line 2: it reaches to 0x810001"},
		{"a line without end", ":" + strings.Repeat("00", 400) + "\n", "not an Intel HEX file"},
	} {
		_, err := readHex(strings.NewReader(c.text))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// What is read can be written and read again, and is the same.
func FuzzReadHex(f *testing.F) {
	var b bytes.Buffer
	if err := writeHex(&b, anImage(newBuild, board.Version, unset)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[len(b.Bytes())-200:])
	f.Add([]byte(":020000021000EC\n:0100000055AA\n:00000001FF\n"))
	f.Add([]byte(":0200000400003A\n:02FFF000AABBAA\n:00000001ff\r\n"))
	f.Add([]byte(":0100000055AA\n:0100000055AA\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		image, err := readHex(bytes.NewReader(text))
		if err != nil {
			return
		}
		if len(image) > loaderAt {
			t.Fatalf("%d bytes reach into the bootloader", len(image))
		}
		var b bytes.Buffer
		if err := writeHex(&b, image); err != nil {
			t.Fatal(err)
		}
		again, err := readHex(&b)
		if err != nil || !bytes.Equal(again, image) {
			t.Fatalf("written and read again it is another: %v", err)
		}
	})
}
