package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	sim "yaoju/daemon/card/sim"
	"yaoju/protocol"
)

// quantile of sorted durations, in milliseconds.
func quantile(d []time.Duration, q float64) float64 {
	return float64(d[int(q*float64(len(d)-1))]) / float64(time.Millisecond)
}

// BenchmarkCardToMotor measures from the last byte of the reader's answer to the
// VEND frame at the motor board, through the real kioskd on real serial lines:
// checksum, mark, judgement, reservation on disk, frame. One fsync of 4 KiB on the
// same disk is measured after each order; a pty has no wire time, a UART of 115200
// takes 1.2 ms for the 14 bytes of the frame.
func BenchmarkCardToMotor(b *testing.B) {
	var bays []bay
	for s := protocol.Slot(1); s <= protocol.Slots; s++ {
		bays = append(bays, bayOf(s, "condom-52", 12, "2030-01-31"))
	}
	pl := quick(b, bays...)
	pl.turn = 100 * time.Millisecond
	tn, err := build(b.Context(), pl)
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var answered, heard time.Time
	tn.rig.answered = func(at time.Time) { mu.Lock(); answered = at; mu.Unlock() }
	tn.rig.heard = func(at time.Time) { mu.Lock(); heard = at; mu.Unlock() }
	tn.run(b)
	if err := tn.startDistrict(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := tn.startKiosk(b.Context()); err != nil {
		b.Fatal(err)
	}
	p := newPerson(b, tn)
	probe, err := os.Create(filepath.Join(tn.dir, "probe"))
	if err != nil {
		b.Fatal(err)
	}
	defer probe.Close()
	var total, sync, rest []time.Duration
	n := 0
	for b.Loop() {
		p.awaits("attract")
		p.tap("next", "")
		p.awaits("choose")
		p.tap("pick", "condom-52")
		p.awaits("scan")
		tn.rig.reader.Lay(sim.Resident("测试甲", "110105", fmt.Sprintf("%04d%02d01", 1950+n%40, 1+n/40%12), n%1000))
		n++
		p.awaits("take")
		tn.rig.reader.Lift()
		mu.Lock()
		took := heard.Sub(answered)
		mu.Unlock()
		begun := time.Now()
		if _, err := probe.Write(make([]byte, 4096)); err != nil {
			b.Fatal(err)
		}
		if err := probe.Sync(); err != nil {
			b.Fatal(err)
		}
		flush := time.Since(begun)
		total, sync, rest = append(total, took), append(sync, flush), append(rest, took-flush)
		p.tap("next", "")
		p.awaits("done")
		p.tap("next", "")
	}
	for _, d := range [][]time.Duration{total, sync, rest} {
		slices.Sort(d)
	}
	b.ReportMetric(0, "ns/op") // the order's length is a matter of taps, not of this measurement
	b.ReportMetric(quantile(total, 0.5), "ms-p50")
	b.ReportMetric(quantile(total, 0.99), "ms-p99")
	b.ReportMetric(quantile(sync, 0.5), "fsync-ms-p50")
	b.ReportMetric(quantile(sync, 0.99), "fsync-ms-p99")
	b.ReportMetric(quantile(rest, 0.5), "overhead-ms-p50")
	b.ReportMetric(quantile(rest, 0.99), "overhead-ms-p99")
}

// BenchmarkIdle measures kioskd with 60 slots and nobody before it, for half a minute.
func BenchmarkIdle(b *testing.B) {
	var bays []bay
	for s := protocol.Slot(1); s <= protocol.Slots; s++ {
		bays = append(bays, bayOf(s, products[int(s)%len(products)].ID, 12, "2030-01-31"))
	}
	tn := open(b, quick(b, bays...))
	newPerson(b, tn).awaits("attract")
	const settle, watch = 10 * time.Second, 30 * time.Second
	time.Sleep(settle)
	for b.Loop() {
		before := tn.kiosk.cpu(b)
		time.Sleep(watch)
		b.ReportMetric(100*float64(tn.kiosk.cpu(b)-before)/float64(watch), "%cpu")
		b.ReportMetric(tn.kiosk.rss(b), "rss-MB")
	}
	b.ReportMetric(0, "ns/op")
}

// cpu returns the processor time a process has used.
func (p *process) cpu(b *testing.B) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks := 0
	for _, s := range f[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// rss returns the resident memory of a process, in megabytes.
func (p *process) rss(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				b.Fatal(err)
			}
			return float64(kb) / 1000
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// BenchmarkBinary builds the Pi's program and reports its size.
func BenchmarkBinary(b *testing.B) {
	path := filepath.Join(b.TempDir(), "kioskd")
	for b.Loop() {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "yaoju/cmd/kioskd")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(info.Size())/1e6, "MB")
}
