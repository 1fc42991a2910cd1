package district

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
)

// Lives of what an officer makes, and how often a token's secret may be wrong
// before the token is dead: nobody mistypes a line that is copied ten times.
const (
	tokenLife   = 24 * time.Hour
	consentLife = 24 * time.Hour
	maxWrong    = 10
	keepTokens  = 90 * 24 * time.Hour // a used or dead token is kept so long, for whoever asks what happened
)

// Peer is who a certificate says is on the other side.
type Peer struct {
	Machine protocol.MachineID
	Key     [32]byte  // SHA-256 of its public key
	Until   time.Time // the certificate's end
	RanOut  bool      // which has passed
	Sealing [32]byte  // X25519 public key for what is sealed to the machine; zero: it told none
}

// Token lets one machine have its first certificate: the first 8 bytes name it, the
// others are its secret.
type Token [24]byte

func (t Token) hash() [32]byte { return sha256.Sum256(t[8:]) }

// Why a machine is given no certificate.
var (
	ErrToken   = errors.New("token is not good")
	ErrRevoked = errors.New("key is not the machine's any more")
	ErrConsent = errors.New("an officer has to consent")
)

// MintToken makes a token for a machine, good for a day. Earlier ones are void.
func (d *District) MintToken(ctx context.Context, m protocol.MachineID) (t Token, expires time.Time, err error) {
	rand.Read(t[:]) // never fails: crypto/rand ends the process instead
	now := time.Now()
	expires = now.Add(tokenLife)
	err = d.store.tx(ctx, func(tx *sql.Tx) error {
		if err := d.enrollable(ctx, tx, m, now); err != nil {
			return err
		}
		if err := voidTokens(ctx, tx, m, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM enrolment WHERE expires_ms < ?`, now.Add(-keepTokens).UnixMilli()); err != nil {
			return err
		}
		hash := t.hash()
		_, err := tx.ExecContext(ctx, `INSERT INTO enrolment (name, machine, hash, made_ms, expires_ms) VALUES (?, ?, ?, ?, ?)`,
			t[:8], m, hash[:], now.UnixMilli(), expires.UnixMilli())
		return err
	})
	if err != nil {
		return Token{}, time.Time{}, fmt.Errorf("make a token for %s: %w", m, err)
	}
	d.o.Log.Info("enrolment token made", "device", m, "expires", expires)
	return t, expires, nil
}

// enrollable checks that a machine may be enrolled: it has been entered, or those
// nobody entered are let in.
func (d *District) enrollable(ctx context.Context, tx *sql.Tx, m protocol.MachineID, now time.Time) error {
	if err := m.Valid(); err != nil {
		return err
	}
	if d.admit(m) {
		return d.know(ctx, tx, m, now)
	}
	return ErrUnknownMachine
}

func voidTokens(ctx context.Context, tx *sql.Tx, m protocol.MachineID, now time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE enrolment SET expires_ms = ?2 WHERE machine = ?1 AND expires_ms > ?2`, m, now.UnixMilli())
	return err
}

// Redeem makes the key the machine's own if the token is good for it: ErrToken,
// which does not say why, or ErrRevoked if not. It may be repeated with the same
// key while the token lasts. A key the machine had before is its own no more, and
// whoever is connected with it is hung up on.
func (d *District) Redeem(ctx context.Context, t Token, p Peer) error {
	now := time.Now()
	var refused error
	err := d.store.tx(ctx, func(tx *sql.Tx) (err error) {
		refused, err = d.redeem(ctx, tx, t, p, now)
		return err // a refusal is committed too: it is counted
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return fmt.Errorf("enrol %s: %w", p.Machine, err)
	}
	d.o.Log.Info("machine enrolled", "device", p.Machine)
	d.line.hangUp(p.Machine, p.Key)
	d.reseal(ctx, p.Machine)
	return nil
}

func (d *District) redeem(ctx context.Context, tx *sql.Tx, t Token, p Peer, now time.Time) (refused, err error) {
	var row struct {
		machine   protocol.MachineID
		hash, key []byte
		expires   int64
		wrong     int
	}
	err = tx.QueryRowContext(ctx, `SELECT machine, hash, expires_ms, used_key, wrong FROM enrolment WHERE name = ?`, t[:8]).
		Scan(&row.machine, &row.hash, &row.expires, &row.key, &row.wrong)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: no such token", ErrToken), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the token: %w", err)
	}
	hash := t.hash()
	if subtle.ConstantTimeCompare(hash[:], row.hash) != 1 {
		_, err := tx.ExecContext(ctx, `UPDATE enrolment SET wrong = wrong + 1 WHERE name = ?`, t[:8])
		return fmt.Errorf("%w: wrong secret, %d before", ErrToken, row.wrong), err
	}
	switch {
	case row.wrong >= maxWrong:
		return fmt.Errorf("%w: its secret was wrong too often", ErrToken), nil
	case row.machine != p.Machine:
		return fmt.Errorf("%w: it is for %s", ErrToken, row.machine), nil
	case now.UnixMilli() >= row.expires:
		return fmt.Errorf("%w: it is too old", ErrToken), nil
	case row.key != nil && string(row.key) != string(p.Key[:]):
		return fmt.Errorf("%w: it was used for another key", ErrToken), nil
	}
	had, ended, err := keeper(ctx, tx, p.Key)
	if err != nil {
		return nil, err
	}
	if had != "" && (had != p.Machine || ended == keyRevoked) {
		return fmt.Errorf("%w: it was %s's, %s", ErrRevoked, had, ended), nil
	}
	if _, err := tx.ExecContext(ctx, `UPDATE enrolment SET used_key = ?, used = used + 1 WHERE name = ?`, p.Key[:], t[:8]); err != nil {
		return nil, fmt.Errorf("note that the token was used: %w", err)
	}
	return nil, own(ctx, tx, p, now)
}

// Why a key is its machine's no more, as it is stored.
const (
	keyRevoked  = "revoked"
	keyReplaced = "replaced" // by another at an enrolment
)

// keeper is the machine that has or had a key, empty if none, and why it ended,
// empty if it did not.
func keeper(ctx context.Context, q querier, key [32]byte) (m protocol.MachineID, ended string, err error) {
	err = q.QueryRowContext(ctx, `SELECT machine, coalesce(ended, '') FROM machine_key WHERE key = ?`, key[:]).Scan(&m, &ended)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("look a key up: %w", err)
	}
	return m, ended, nil
}

// own makes a key the machine's own, in the place of any other.
func own(ctx context.Context, tx *sql.Tx, p Peer, now time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE machine_key SET ended_ms = ?3, ended = ?4 WHERE machine = ?1 AND key <> ?2 AND ended_ms IS NULL`,
		p.Machine, p.Key[:], now.UnixMilli(), keyReplaced)
	if err != nil {
		return fmt.Errorf("replace the key of %s: %w", p.Machine, err)
	}
	var sealing []byte // NULL keeps what is there: an older program tells nothing
	if p.Sealing != [32]byte{} {
		sealing = p.Sealing[:]
	}
	// The end never falls: an earlier certificate holds on, and the key stays on a
	// broker's list, once it is revoked, until the last of them has run out.
	_, err = tx.ExecContext(ctx, `INSERT INTO machine_key (machine, key, since_ms, until_ms, sealing) VALUES (?1, ?2, ?3, ?4, ?5)
		ON CONFLICT (machine, key) DO UPDATE SET until_ms = CASE WHEN excluded.until_ms > machine_key.until_ms THEN excluded.until_ms ELSE machine_key.until_ms END, ended_ms = NULL, ended = NULL, sealing = coalesce(excluded.sealing, machine_key.sealing)`,
		p.Machine, p.Key[:], now.UnixMilli(), p.Until.UnixMilli(), sealing)
	if err != nil {
		return fmt.Errorf("note the key of %s: %w", p.Machine, err)
	}
	return nil
}

// Renew notes that a machine gets its next certificate, until p.Until, for the key
// it has: ErrRevoked if that is not its own any more, ErrConsent if the certificate
// it showed ran out, or if the key is not known here because this store is an older
// copy, and no officer has consented.
func (d *District) Renew(ctx context.Context, p Peer) error {
	now := time.Now()
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		had, ended, err := keeper(ctx, tx, p.Key)
		if err != nil {
			return err
		}
		if had != "" && (had != p.Machine || ended != "") {
			return ErrRevoked
		}
		if had == "" || p.RanOut {
			if !d.admit(p.Machine) {
				return ErrConsent
			}
			if err := useConsent(ctx, tx, p, now); err != nil {
				return err
			}
			if err := d.know(ctx, tx, p.Machine, now); err != nil {
				return err
			}
		}
		return own(ctx, tx, p, now)
	})
	if err != nil {
		return fmt.Errorf("renew the certificate of %s: %w", p.Machine, err)
	}
	d.line.hangUp(p.Machine, p.Key)
	d.reseal(ctx, p.Machine)
	return nil
}

func useConsent(ctx context.Context, tx *sql.Tx, p Peer, now time.Time) error {
	r, err := tx.ExecContext(ctx, `UPDATE consent SET used_key = ?2 WHERE machine = ?1 AND expires_ms > ?3 AND coalesce(used_key, ?2) = ?2`,
		p.Machine, p.Key[:], now.UnixMilli())
	if err != nil {
		return fmt.Errorf("use the consent: %w", err)
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		err = ErrConsent
	}
	return err
}

// Consent lets a machine whose certificate ran out, or whose key this store does not
// know, come back within a day. For one that was revoked it is ErrRevoked: no consent
// makes its key good again.
func (d *District) Consent(ctx context.Context, m protocol.MachineID) (expires time.Time, err error) {
	now := time.Now()
	expires = now.Add(consentLife)
	err = d.store.tx(ctx, func(tx *sql.Tx) error {
		if err := d.enrollable(ctx, tx, m, now); err != nil {
			return err
		}
		var own, revoked int
		err := tx.QueryRowContext(ctx, `SELECT count(CASE WHEN ended_ms IS NULL THEN 1 END), count(CASE WHEN ended = ?2 THEN 1 END) FROM machine_key WHERE machine = ?1`, m, keyRevoked).Scan(&own, &revoked)
		if err != nil {
			return fmt.Errorf("look its keys up: %w", err)
		}
		if own == 0 && revoked > 0 {
			return ErrRevoked
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO consent (machine, made_ms, expires_ms) VALUES (?1, ?2, ?3)
			ON CONFLICT (machine) DO UPDATE SET made_ms = ?2, expires_ms = ?3, used_key = NULL`, m, now.UnixMilli(), expires.UnixMilli())
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("consent to %s: %w", m, err)
	}
	d.o.Log.Info("an officer consented to a machine's return", "device", m, "expires", expires)
	return expires, nil
}

// Revoke takes every key from a machine, and every token and consent that could
// bring one back, and hangs up on it. It is durable when Revoke returns.
func (d *District) Revoke(ctx context.Context, m protocol.MachineID) error {
	now := time.Now()
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		if err := mustKnow(ctx, tx, m); err != nil {
			return err
		}
		if err := voidTokens(ctx, tx, m, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM consent WHERE machine = ?`, m); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE machine_key SET ended_ms = coalesce(ended_ms, ?2), ended = ?3 WHERE machine = ?1`, m, now.UnixMilli(), keyRevoked)
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke %s: %w", m, err)
	}
	d.o.Log.Warn("machine revoked", "device", m)
	d.line.hangUp(m, [32]byte{})
	return nil
}

// Enrolled is how many machines have a key of their own.
func (d *District) Enrolled(ctx context.Context) (n int, err error) {
	if err := d.store.read.QueryRowContext(ctx, `SELECT count(*) FROM machine_key WHERE ended_ms IS NULL`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the enrolled machines: %w", err)
	}
	return n, nil
}

// owns says whether the key is the machine's own.
func (d *District) owns(ctx context.Context, p Peer) (bool, error) {
	m, ended, err := keeper(ctx, d.store.read, p.Key)
	return m == p.Machine && ended == "", err
}

// signing is what signs, and what leads machines to its key.
type signing struct {
	key   ed25519.PrivateKey
	chain []byte // a keys message; nil while there was never another key
}

func (d *District) signing() signing {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sign
}

// SetSigner makes key the one that signs from now on, with the keys message that
// leads machines to it. Every desired state is signed anew and published.
func (d *District) SetSigner(ctx context.Context, key ed25519.PrivateKey, chain []byte) error {
	d.mu.Lock()
	d.sign = signing{key, chain}
	d.mu.Unlock()
	if err := d.publishKeys(ctx); err != nil {
		return fmt.Errorf("change the signing key: %w", err)
	}
	if err := d.signAnew(ctx); err != nil {
		return fmt.Errorf("change the signing key: %w", err)
	}
	if err := d.publishDesired(ctx); err != nil {
		return fmt.Errorf("change the signing key: %w", err)
	}
	d.o.Log.Info("signing key in force", "key", protocol.KeyName(key.Public().(ed25519.PublicKey)))
	return nil
}

// publishKeys retains the keys message for every machine.
func (d *District) publishKeys(ctx context.Context) error {
	chain := d.signing().chain
	if chain == nil {
		return nil
	}
	return rows(ctx, d.store.write, `SELECT id FROM machine`, nil, func(r *sql.Rows) error {
		var m protocol.MachineID
		if err := r.Scan(&m); err != nil {
			return fmt.Errorf("list the machines: %w", err)
		}
		return d.line.publish(protocol.KeysTopic(m), chain, true)
	})
}

// signAnew signs the stored desired states that another key signed. Their versions
// stay: nothing else about them has changed.
func (d *District) signAnew(ctx context.Context) error {
	return d.store.tx(ctx, func(tx *sql.Tx) error {
		key := d.signing().key
		fresh := map[protocol.MachineID][]byte{}
		err := rows(ctx, tx, `SELECT machine, body, message FROM desired`, nil, func(r *sql.Rows) error {
			var m protocol.MachineID
			var body, message []byte
			if err := r.Scan(&m, &body, &message); err != nil {
				return err
			}
			var s protocol.Signed
			if err := json.Unmarshal(message, &s); err != nil {
				return fmt.Errorf("stored message for %s: %w", m, err)
			}
			if s.Key == protocol.KeyName(key.Public().(ed25519.PublicKey)) {
				return nil
			}
			want, err := decodeDesired(body)
			if err != nil {
				return err
			}
			fresh[m], err = protocol.SignDesired(key, want)
			return err
		})
		if err != nil {
			return fmt.Errorf("sign the desired states anew: %w", err)
		}
		for m, message := range fresh {
			if _, err := tx.ExecContext(ctx, `UPDATE desired SET message = ? WHERE machine = ?`, message, m); err != nil {
				return fmt.Errorf("keep the desired state of %s: %w", m, err)
			}
		}
		return nil
	})
}
