package district

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
)

// A command may be obeyed for commandLife, from a little before it was given
// because the clocks of two computers never agree. After that a person would no
// longer expect it.
const (
	commandSlack = 2 * time.Minute
	commandLife  = 15 * time.Minute
)

// maxRepeated bounds the commands given again to a machine that comes online.
const maxRepeated = 16

// ErrUnknownMachine says that the district has no such machine.
var ErrUnknownMachine = errors.New("no such machine")

// SetDesired makes a desired state the one that should be in force on its
// machine. Its version is assigned here: what the caller put there is ignored, and
// the same wish again keeps the version it has. It is stored when SetDesired
// returns, and published at once and at every start.
func (d *District) SetDesired(ctx context.Context, want protocol.Desired) (protocol.DesiredVersion, error) {
	var message []byte
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		now := time.Now()
		if err := mustKnow(ctx, tx, want.Machine); err != nil {
			return err
		}
		g, err := generation(ctx, tx)
		if err != nil {
			return err
		}
		want.DesiredVersion = protocol.DesiredVersion{Generation: g}
		var body []byte
		err = tx.QueryRowContext(ctx, `SELECT version, body FROM desired WHERE machine = ? AND generation = ?`, want.Machine, g).Scan(&want.Version, &body)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("read the version: %w", err)
		}
		if err := d.sealInto(ctx, tx, &want, body); err != nil {
			return err
		}
		if !bytes.Equal(body, protocol.Encode(want)) {
			want.Version++
		}
		if message, err = protocol.SignDesired(d.signing().key, want); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO desired (machine, generation, version, body, message, made_ms) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (machine) DO UPDATE SET generation = excluded.generation, version = excluded.version, body = excluded.body, message = excluded.message, made_ms = excluded.made_ms`,
			want.Machine, g, want.Version, protocol.Encode(want), message, now.UnixMilli())
		return err
	})
	if err != nil {
		return protocol.DesiredVersion{}, fmt.Errorf("set the desired state of %s: %w", want.Machine, err)
	}
	d.wake(want.Machine)
	return want.DesiredVersion, d.line.publish(protocol.DesiredTopic(want.Machine), message, true)
}

// sealInto puts into want what only its machine is to read: as it was sealed before,
// if that is still the same, because two seals of the same differ and each would be a
// new version. A machine that has told no key gets none; it keeps what it has.
func (d *District) sealInto(ctx context.Context, tx *sql.Tx, want *protocol.Desired, body []byte) error {
	want.Sealed, want.SealedSum = nil, nil
	if d.o.Secrets == nil {
		return nil
	}
	var key []byte
	err := tx.QueryRowContext(ctx, `SELECT sealing FROM machine_key WHERE machine = ? AND ended_ms IS NULL`, want.Machine).Scan(&key)
	if errors.Is(err, sql.ErrNoRows) || err == nil && len(key) != 32 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look its sealing key up: %w", err)
	}
	plain := d.o.Secrets.Plain(want.Machine)
	sum := hmac.New(sha256.New, d.signing().key.Seed())
	fmt.Fprintf(sum, "yaoju sealed\x00%s\x00%x\x00%s", want.Machine, key, plain) // a hash never fails to be written
	want.SealedSum = sum.Sum(nil)
	if len(body) > 0 {
		var was protocol.Desired
		if err := json.Unmarshal(body, &was); err != nil {
			return fmt.Errorf("read the state in force: %w", err)
		}
		if bytes.Equal(was.SealedSum, want.SealedSum) {
			want.Sealed = was.Sealed
			return nil
		}
	}
	want.Sealed, err = d.o.Secrets.Seal([32]byte(key), want.Machine, plain)
	return err
}

// reseal seals what is for a machine alone to the key that it has told. The machine has
// its certificate whatever comes of it: the next start seals again.
func (d *District) reseal(ctx context.Context, m protocol.MachineID) {
	if d.o.Secrets == nil {
		return
	}
	var body []byte
	err := d.store.read.QueryRowContext(ctx, `SELECT body FROM desired WHERE machine = ?`, m).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return // nobody has said yet what should be so there
	}
	var want protocol.Desired
	if err == nil {
		err = json.Unmarshal(body, &want)
	}
	if err == nil {
		_, err = d.SetDesired(ctx, want)
	}
	if err != nil {
		d.o.Log.Error("accounts not sealed", "device", m, "err", err)
	}
}

// Send gives a machine a command; slot is 0 for a verb that takes none. It is
// stored when Send returns, and given again if the machine comes online before it
// expires. The answer is an event.
func (d *District) Send(ctx context.Context, m protocol.MachineID, verb protocol.Verb, slot protocol.Slot) (protocol.Command, error) {
	now := time.Now()
	c := protocol.Command{
		ID:          newCommandID(),
		Machine:     m,
		NotBeforeMS: now.Add(-commandSlack).UnixMilli(),
		ExpiresMS:   now.Add(commandLife).UnixMilli(),
		Verb:        verb,
		Slot:        slot,
	}
	var message []byte
	err := d.store.tx(ctx, func(tx *sql.Tx) (err error) {
		message, err = d.give(ctx, tx, &c, now)
		return err
	})
	if err != nil {
		return protocol.Command{}, fmt.Errorf("send %s to %s: %w", verb, m, err)
	}
	d.o.Log.Info("command sent", "device", m, "command", c.ID, "verb", verb, "slot", slot)
	d.wake(m)
	return c, d.line.publish(protocol.CommandTopic(m), message, false)
}

// give counts, signs and stores a command, and returns it as it is to be sent once tx
// is committed.
func (d *District) give(ctx context.Context, tx *sql.Tx, c *protocol.Command, now time.Time) (message []byte, err error) {
	if err := mustKnow(ctx, tx, c.Machine); err != nil {
		return nil, err
	}
	if c.Generation, err = generation(ctx, tx); err != nil {
		return nil, err
	}
	err = tx.QueryRowContext(ctx, `SELECT coalesce(max(counter), 0) + 1 FROM command WHERE machine = ? AND generation = ?`, c.Machine, c.Generation).Scan(&c.Counter)
	if err != nil {
		return nil, fmt.Errorf("count the command: %w", err)
	}
	if message, err = protocol.SignCommand(d.signing().key, *c); err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO command (id, machine, generation, counter, verb, slot, message, made_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.ID, c.Machine, c.Generation, c.Counter, c.Verb, c.Slot, message, now.UnixMilli(), c.ExpiresMS)
	return message, err
}

func newCommandID() string {
	var b [12]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return "c-" + hex.EncodeToString(b[:])
}

func mustKnow(ctx context.Context, q querier, m protocol.MachineID) error {
	var n int
	if err := q.QueryRowContext(ctx, `SELECT count(*) FROM machine WHERE id = ?`, m).Scan(&n); err != nil {
		return fmt.Errorf("look %s up: %w", m, err)
	}
	if n == 0 {
		return ErrUnknownMachine
	}
	return nil
}

// repeatCommands gives a machine again what it may have missed. It knows by the
// id what it has done already.
func (d *District) repeatCommands(ctx context.Context, m protocol.MachineID) error {
	var due [][]byte
	err := rows(ctx, d.store.write, `SELECT message FROM command WHERE machine = ? AND result IS NULL AND expires_ms > ?
		ORDER BY generation, counter LIMIT ?`, []any{m, time.Now().UnixMilli(), maxRepeated}, func(r *sql.Rows) error {
		var b []byte
		err := r.Scan(&b)
		due = append(due, b)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the commands of %s: %w", m, err)
	}
	for _, b := range due {
		if err := d.line.publish(protocol.CommandTopic(m), b, false); err != nil {
			return err
		}
	}
	return nil
}

// publishCommands gives every machine again what it may have missed while we had no
// broker, in the order of the counters: a machine obeys no lower one after a higher.
func (d *District) publishCommands(ctx context.Context) error {
	var due []protocol.MachineID
	err := rows(ctx, d.store.write, `SELECT DISTINCT machine FROM command WHERE result IS NULL AND expires_ms > ?`, []any{time.Now().UnixMilli()}, func(r *sql.Rows) error {
		var m protocol.MachineID
		err := r.Scan(&m)
		due = append(due, m)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the commands: %w", err)
	}
	for _, m := range due {
		if err := d.repeatCommands(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// publishDesired retains every desired state in the broker, which forgets them
// when it stops.
func (d *District) publishDesired(ctx context.Context) error {
	return rows(ctx, d.store.write, `SELECT machine, message FROM desired`, nil, func(r *sql.Rows) error {
		var m protocol.MachineID
		var b []byte
		if err := r.Scan(&m, &b); err != nil {
			return fmt.Errorf("list the desired states: %w", err)
		}
		return d.line.publish(protocol.DesiredTopic(m), b, true)
	})
}

// decodeDesired decodes a desired state out of the store.
func decodeDesired(body []byte) (protocol.Desired, error) {
	var want protocol.Desired
	if err := json.Unmarshal(body, &want); err != nil {
		return want, fmt.Errorf("stored desired state: %w", err)
	}
	return want, nil
}
