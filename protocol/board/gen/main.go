// Command gen writes the C header of the motor board's wire to the file named by
// its one argument. It knows nothing of what the header says.
package main

import (
	"fmt"
	"os"

	"yaoju/protocol/board"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen header.h")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], board.Header(), 0o644); err != nil {
		fmt.Fprintf(os.Stderr, "write the header: %v\n", err)
		os.Exit(1)
	}
}
