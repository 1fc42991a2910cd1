package district

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
)

// Certified is how a machine stands with its district.
type Certified struct {
	Machine protocol.MachineID
	Until   time.Time // the end of its newest certificate; zero: it never had one
	Revoked bool      // its keys were taken from it, and it has had no other since
	Token   time.Time // an enrolment line is good until then; zero: there is none
	Consent time.Time // it may come back until then; zero: nobody consented, or it came
}

// Certificates lists every machine the district knows, by its id.
func (d *District) Certificates(ctx context.Context) ([]Certified, error) {
	return d.certified(ctx, "")
}

// Certificate is how one machine stands; it is its id alone if the district does not
// know it.
func (d *District) Certificate(ctx context.Context, m protocol.MachineID) (Certified, error) {
	found, err := d.certified(ctx, m)
	if err != nil || len(found) == 0 {
		return Certified{Machine: m}, err
	}
	return found[0], nil
}

// certified lists one machine, or all where it is empty.
func (d *District) certified(ctx context.Context, only protocol.MachineID) ([]Certified, error) {
	var out []Certified
	// A machine has one key of its own at most; where it has none, those that were
	// revoked count, and a replaced one never does.
	err := rows(ctx, d.store.read, `SELECT m.id, coalesce(k.until_ms, 0), coalesce(k.revoked, 0), coalesce(e.expires_ms, 0), coalesce(c.expires_ms, 0)
		FROM machine m
		LEFT JOIN (SELECT machine, max(CASE WHEN ended_ms IS NULL THEN until_ms END) AS until_ms, count(CASE WHEN ended = ?2 THEN 1 END) AS revoked
			FROM machine_key GROUP BY machine) k ON k.machine = m.id
		LEFT JOIN (SELECT machine, max(expires_ms) AS expires_ms FROM enrolment WHERE expires_ms > ?1 AND used_key IS NULL GROUP BY machine) e ON e.machine = m.id
		LEFT JOIN consent c ON c.machine = m.id AND c.expires_ms > ?1 AND c.used_key IS NULL
		WHERE ?3 = '' OR m.id = ?3 ORDER BY m.id`, []any{time.Now().UnixMilli(), keyRevoked, string(only)}, func(r *sql.Rows) error {
		var c Certified
		var until, revoked, token, consent int64
		if err := r.Scan(&c.Machine, &until, &revoked, &token, &consent); err != nil {
			return err
		}
		c.Until, c.Token, c.Consent = moment(until), moment(token), moment(consent)
		c.Revoked = revoked > 0 && until == 0
		out = append(out, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the certificates: %w", err)
	}
	return out, nil
}

// moment is the time of stored milliseconds, of which 0 is none.
func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// SealingKey is the X25519 key with which the machine alone opens what is sealed to
// it; not known where it has not told one, or has no key of its own.
func (d *District) SealingKey(ctx context.Context, m protocol.MachineID) (k [32]byte, known bool, err error) {
	var b []byte
	err = d.store.read.QueryRowContext(ctx, `SELECT sealing FROM machine_key WHERE machine = ? AND ended_ms IS NULL`, m).Scan(&b)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return k, false, fmt.Errorf("look the sealing key of %s up: %w", m, err)
	}
	return k, copy(k[:], b) == len(k), nil
}
