// Command twins plugs a simulated motor board and a simulated card reader into a
// computer without hardware: twins BOARD READER, the paths at which they are to be.
// It is built for TestInstallGuide only.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	reader "yaoju/daemon/card/sim"
	"yaoju/daemon/machine/sim"
	"yaoju/daemon/port/pty"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	board := sim.New(sim.Options{Serial: 0xA17E, Build: 1, Turn: time.Second, Rand: rand.New(rand.NewPCG(1, 2))})
	for i, serve := range []func(context.Context, io.ReadWriteCloser) error{board.Serve, reader.New(reader.ReadTakes).Serve} {
		line, err := pty.NewSocket(os.Args[1+i]).Plug()
		if err == nil {
			err = os.Chmod(line.Path(), 0o666) // the devices of a real machine are the group's
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "twins:", err)
			os.Exit(1)
		}
		go serve(ctx, line) // until the test ends us
	}
	<-ctx.Done()
}
