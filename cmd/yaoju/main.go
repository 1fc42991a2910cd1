// Command yaoju is the operator's tool. Its demo runs a district and simulated
// machines on loopback, with no hardware and nothing installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	_ "time/tzdata" // the demo's days are Shanghai's wherever it runs

	"yaoju/daemon/cabinet"
	"yaoju/daemon/scan"
)

// version is set by the release build with -ldflags "-X main.version=...".
var version = "dev"

const usage = `usage: yaoju COMMAND [FLAGS]

  demo      run a district and simulated machines on loopback
  board     ask the motor board who it is, or write its firmware
  doctor    say what works, what is missing and what to do
  data      carry a machine's memory to another card, wipe marks, retire
  staff     keep a file of staff accounts: badges, roles, PINs
  enrol     get this machine its certificate from the district
  update    look at, check, make or undo a version of the machine's software
  version   print the version

yaoju COMMAND -h lists the flags of a command.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var lines scan.GPIO
	if os.Args[1] == "doctor" {
		lines = scan.FindGPIO() // before any file is opened: see there
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch command, args := os.Args[1], os.Args[2:]; command {
	case "demo":
		o := demoFlags(args)
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		self, err := os.Executable()
		if err == nil {
			err = demo(ctx, filepath.Dir(self), o, os.Stdout, log)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "yaoju demo:", err)
			os.Exit(1)
		}
	case "board":
		code := boardCommand(ctx, args, terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr})
		stop()
		os.Exit(code)
	case "doctor":
		code := doctorCommand(ctx, thisHost(lines), args, terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr})
		stop()
		os.Exit(code)
	case "data":
		code := dataCommand(ctx, args, terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr})
		stop()
		os.Exit(code)
	case "staff":
		code := staffCommand(ctx, args, terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr})
		stop()
		os.Exit(code)
	case "enrol":
		if err := enrolCommand(ctx, args, os.Stderr); err != nil {
			if !errors.Is(err, flag.ErrHelp) {
				fmt.Fprintln(os.Stderr, "yaoju enrol:", err)
			}
			os.Exit(1)
		}
	case "update":
		code := updateCommand(ctx, args, terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr})
		stop()
		os.Exit(code)
	case "version":
		fmt.Println("yaoju", version)
	default:
		fmt.Fprintf(os.Stderr, "yaoju: unknown command %q\n\n%s", command, usage)
		os.Exit(2)
	}
}

func demoFlags(args []string) demoOptions {
	var o demoOptions
	f := flag.NewFlagSet("yaoju demo", flag.ExitOnError)
	f.IntVar(&o.machines, "machines", 10, "light machines beside the complete one, 0 to 200")
	f.Float64Var(&o.speed, "speed", 120, "how many times more residents than in life come to the light machines")
	f.StringVar(&o.bench, "bench", "127.0.0.1:8070", "address of the demo machine's bench")
	f.StringVar(&o.console, "console", "127.0.0.1:8090", "address of the district's console")
	f.BoolVar(&o.firmware, "firmware", false, "run the complete machine's motor board on the real firmware (make firmware builds it)")
	f.StringVar(&o.board, "board", cabinet.KindOwn, "the complete machine's board: own, or vending for an off-the-shelf one")
	f.StringVar(&o.keep, "keep", "", "folder to keep the data and logs in; empty: a temporary one, removed at the end")
	f.Parse(args) // ends the process on an error
	for _, address := range []string{o.bench, o.console} {
		host, _, err := net.SplitHostPort(address)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			fmt.Fprintf(os.Stderr, "yaoju demo: address %q: want one on loopback with a port, such as 127.0.0.1:8090\n", address)
			os.Exit(2)
		}
	}
	if o.board != cabinet.KindOwn && (o.board != cabinet.KindVending || o.firmware) {
		fmt.Fprintln(os.Stderr, "yaoju demo: -board: want own or vending, and -firmware is for our own")
		os.Exit(2)
	}
	if o.machines < 0 || o.machines > 200 || !(o.speed > 0 && o.speed <= 100000) || f.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "yaoju demo: want 0 to 200 machines, a speed above 0 and at most 100000, and no further words")
		os.Exit(2)
	}
	return o
}
