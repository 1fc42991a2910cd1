// Command gen writes the JSON Schemas of the wire contract into a folder.
package main

import (
	"log"
	"os"
	"path/filepath"

	"yaoju/protocol/schema"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gen FOLDER")
	}
	for name, text := range schema.Files() {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), text, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
