package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"yaoju/protocol"
)

// Versions of the ledger's file, for the manifest of a release. A change comes in
// two releases: the first reads the new version and writes the old one, so that it
// can come back after the second, which writes it.
const (
	Oldest = 1 // the oldest version this program reads
	Writes = 3 // an older file is brought to this version when it is opened
	Newest = 3 // the newest version this program reads
)

// order keeps an order until it is handed over: a newer one replaces it. The answer
// says that it was taken, not that it was carried out.
func (t *tx) order(c protocol.Command) (protocol.CommandResult, string, error) {
	if !t.l.updates {
		return protocol.CommandFailed, "this machine takes no updates: kioskd.toml has no update.dir", nil
	}
	_, err := t.exec(`INSERT INTO update_order (one, command, body) VALUES (1, ?1, ?2) ON CONFLICT DO UPDATE SET command = ?1, body = ?2`,
		c.ID, string(protocol.Encode(c.Update)))
	return protocol.CommandOK, "version " + c.Update.Version + " is ordered", err
}

// Ordered returns the order that was taken and not handed over yet, with the id of
// its command; ok is false if there is none.
func (l *Ledger) Ordered(ctx context.Context) (id string, u protocol.Update, ok bool, err error) {
	err = l.read(ctx, "read the order of an update", func(t *tx) error {
		var body string
		err := t.row(`SELECT command, body FROM update_order`).Scan(&id, &body)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(body), &u); err != nil {
			return fmt.Errorf("order %s: %w", id, err)
		}
		ok = true
		return nil
	})
	return id, u, ok, err
}

// HandedOver forgets an order that somebody else has written down, durably. It may
// be told twice.
func (l *Ledger) HandedOver(ctx context.Context, id string) error {
	return l.tx(ctx, "forget the order of an update", func(t *tx) error {
		_, err := t.exec(`DELETE FROM update_order WHERE command = ?`, id)
		return err
	})
}
