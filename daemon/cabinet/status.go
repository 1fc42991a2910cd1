package cabinet

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"yaoju/daemon/status"
)

// Status is how the cabinet is at now, for the status document.
func (s State) Status(now time.Time) (parts []status.Part) {
	for _, p := range s.Parts {
		if p.State != status.Up && p.State != status.Wrong && p.gone() {
			p.State = status.Absent
		}
		parts = append(parts, status.Part{Part: p.Key, Label: p.Name, Device: p.Device, State: p.State, Why: p.Why, Found: p.found(), Since: now})
	}
	return parts
}

// found is the part that answers in p's place, as the status document has it.
func (p Part) found() string {
	if p.State != status.Wrong {
		return ""
	}
	return map[who]string{motorBoard: status.PartBoard, vendingBoard: status.FoundVending, cardReader: status.PartReader,
		badgeReader: status.PartBadge, barcodeScanner: status.PartScanner, stranger: status.FoundOther}[p.answers]
}

// gone reports whether the part's device is not there: the kernel takes its name away
// with the plug.
func (p Part) gone() bool {
	path, _, _ := strings.Cut(p.Device, ",") // a sensor's address on its bus stands behind it
	_, err := os.Stat(path)
	return strings.HasPrefix(path, "/") && errors.Is(err, fs.ErrNotExist)
}
