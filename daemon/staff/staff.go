// Package staff knows who may open the menu behind the service door: accounts,
// their badges and PINs, and the lock that follows wrong ones.
//
// It owns Argon2id, the pepper and the count of tries. A PIN has six digits, so a
// copy of the machine's memory must not be enough to try them all: what is kept of
// a PIN and of a badge is peppered with the machine's own key. It does not know
// what staff may do with their role, what the screen says, or where its store
// writes. It works without the district.
package staff

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"yaoju/protocol"
)

// The work that a new PIN costs: 0.1 s and 19 MiB on a Pi 4, as OWASP's password
// storage guide asks at least for Argon2id.
const (
	memoryKiB = 19 << 10
	passes    = 2
	lanes     = 1
	saltSize  = 16
	hashSize  = 32
)

// TriesPerLock is how many wrong PINs in a row lock an account.
const TriesPerLock = 5

// lockTimes is how long an account is locked the first time, the second, and so on;
// the last holds from then on.
var lockTimes = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

// keepEvery is how often the rest of a lock is written down: a power cut makes a
// lock longer by at most this, and never shorter.
const keepEvery = 10 * time.Second

// Pepper is the machine's own part of every secret kept here.
type Pepper [32]byte

// Kept is an account as it is stored: nothing in it tells a badge or a PIN to who
// has no pepper.
type Kept struct {
	Staff     string        `json:"staff"`
	Role      protocol.Role `json:"role"`
	Badges    [][]byte      `json:"badges"` // HMAC of kind and UID
	Salt      []byte        `json:"salt"`
	MemoryKiB uint32        `json:"memory_kib"`
	Passes    uint32        `json:"passes"`
	PIN       []byte        `json:"pin"` // HMAC of the Argon2id hash
}

// Lock is where an account stands after wrong PINs. The zero value is an account
// that nobody tried.
type Lock struct {
	Wrong int           // wrong PINs since the last right one
	Round int           // locks since then
	Left  time.Duration // of the running lock; it counts only while the daemon runs
}

// Store remembers. Every method is durable when it returns nil.
type Store interface {
	Accounts(ctx context.Context) ([]Kept, error)
	// SetAccounts puts these accounts in the place of all others. The lock of an
	// account that is gone, or has another PIN, goes with it.
	SetAccounts(ctx context.Context, all []Kept) error
	Lock(ctx context.Context, account string) (Lock, error)
	// SetLock keeps l. With locked it records as well that the account was locked.
	SetLock(ctx context.Context, account string, l Lock, locked bool) error
}

// NewPIN makes what proves a PIN, for whoever sets one: district or tool. The PIN
// has to be six digits that nobody guesses first.
func NewPIN(pin string) (protocol.PIN, error) {
	if err := ValidPIN(pin); err != nil {
		return protocol.PIN{}, err
	}
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails: crypto/rand ends the process instead
	return protocol.PIN{Salt: salt, MemoryKiB: memoryKiB, Passes: passes,
		Hash: argon2.IDKey([]byte(pin), salt, passes, memoryKiB, lanes, hashSize)}, nil
}

// ValidPIN says what is wrong with a new PIN. The error never holds it.
func ValidPIN(pin string) error {
	if !digits(pin) {
		return fmt.Errorf("a PIN has %d digits", protocol.PINDigits)
	}
	step := func(by byte) bool { // whether each digit follows the one before by as much
		for i := 1; i < len(pin); i++ {
			if (pin[i]-'0'+10-(pin[i-1]-'0'))%10 != by {
				return false
			}
		}
		return true
	}
	if step(0) || step(1) || step(9) || pin[:3] == pin[3:] || pin[:2] == pin[2:4] && pin[:2] == pin[4:] {
		return errors.New("this PIN is one of the first that anybody would try: choose one without a pattern")
	}
	return nil
}

func digits(pin string) bool {
	return len(pin) == protocol.PINDigits && !slices.ContainsFunc([]byte(pin), func(c byte) bool { return c < '0' || c > '9' })
}

// Book is the accounts of one machine.
type Book struct {
	store  Store
	pepper Pepper

	mu    sync.Mutex // held while a PIN is checked: one at a time, for the memory it takes
	locks map[string]*running
	woken chan struct{} // Run has a lock to count down
}

// running is a lock that goes down while the daemon runs.
type running struct {
	Lock
	since time.Time // when Left was that much; monotonic, so no clock can end it
}

func (r *running) left() time.Duration { return max(0, r.Left-time.Since(r.since)) }

// Open returns the accounts that the store keeps.
func Open(ctx context.Context, store Store, pepper Pepper) (*Book, error) {
	b := &Book{store: store, pepper: pepper, locks: map[string]*running{}, woken: make(chan struct{}, 1)}
	all, err := store.Accounts(ctx)
	if err != nil {
		return nil, fmt.Errorf("staff: %w", err)
	}
	for _, k := range all {
		if _, err := b.lock(ctx, k.Staff); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Replace puts these accounts, as the district sealed them, in the place of all
// others. Who is not among them can no longer sign in.
func (b *Book) Replace(ctx context.Context, accounts []protocol.Account) error {
	if err := protocol.ValidAccounts(accounts); err != nil {
		return fmt.Errorf("staff: %w", err)
	}
	all := make([]Kept, 0, len(accounts))
	for _, a := range accounts {
		k := Kept{Staff: a.Staff, Role: a.Role, Salt: a.PIN.Salt, MemoryKiB: a.PIN.MemoryKiB, Passes: a.PIN.Passes, PIN: b.spice("pin", a.PIN.Hash)}
		for _, badge := range a.Badges {
			k.Badges = append(k.Badges, b.badge(badge))
		}
		all = append(all, k)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.store.SetAccounts(ctx, all); err != nil {
		return fmt.Errorf("staff: %w", err)
	}
	clear(b.locks) // they are read again as they are needed
	for _, k := range all {
		if _, err := b.lock(ctx, k.Staff); err != nil {
			return err
		}
	}
	return nil
}

// spice is what is kept of a secret.
func (b *Book) spice(what string, secret []byte) []byte {
	h := hmac.New(sha256.New, b.pepper[:])
	fmt.Fprintf(h, "yaoju staff %s\x00", what) // a hash never fails to be written
	h.Write(secret)
	return h.Sum(nil)
}

func (b *Book) badge(badge protocol.Badge) []byte {
	return b.spice("badge", []byte(badge.Kind+"\x00"+badge.UID))
}

// Who returns whose badge it is; ok is false for one that nobody here has.
func (b *Book) Who(ctx context.Context, badge protocol.Badge) (account string, role protocol.Role, ok bool, err error) {
	all, err := b.store.Accounts(ctx)
	if err != nil {
		return "", "", false, fmt.Errorf("staff: %w", err)
	}
	is := b.badge(badge)
	for _, k := range all {
		for _, have := range k.Badges {
			if hmac.Equal(have, is) {
				return k.Staff, k.Role, true, nil
			}
		}
	}
	return "", "", false, nil
}

// Role returns what an account may do here; ok is false for one that is not, or no
// longer, valid.
func (b *Book) Role(ctx context.Context, account string) (role protocol.Role, ok bool, err error) {
	all, err := b.store.Accounts(ctx)
	if err != nil {
		return "", false, fmt.Errorf("staff: %w", err)
	}
	i := slices.IndexFunc(all, func(k Kept) bool { return k.Staff == account })
	if i < 0 {
		return "", false, nil
	}
	return all[i].Role, true, nil
}

// WrongError says that the PIN is not the account's.
type WrongError struct {
	Left int           // tries before the account is locked
	For  time.Duration // how long it is locked now; 0 while tries are left
}

func (e *WrongError) Error() string {
	if e.For > 0 {
		return fmt.Sprintf("wrong PIN: locked for %v", e.For)
	}
	return fmt.Sprintf("wrong PIN: %d more tries", e.Left)
}

// LockedError says that the account takes no PIN for a while, right or wrong.
type LockedError struct{ For time.Duration }

func (e *LockedError) Error() string { return fmt.Sprintf("locked for %v", e.For) }

// ErrGone says that the account was taken back while somebody was signing in.
var ErrGone = errors.New("the account is no longer valid here")

// Check says whether pin is the account's: nil, a *WrongError, a *LockedError or
// ErrGone. The try is on disk before it is judged, so pulling the plug gives no
// more of them.
func (b *Book) Check(ctx context.Context, account, pin string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, err := b.store.Accounts(ctx)
	if err != nil {
		return fmt.Errorf("staff: %w", err)
	}
	i := slices.IndexFunc(all, func(k Kept) bool { return k.Staff == account })
	if i < 0 {
		return ErrGone
	}
	l, err := b.lock(ctx, account)
	if err != nil {
		return err
	}
	if left := l.left(); left > 0 {
		return &LockedError{left}
	}
	l.Left = 0
	l.Wrong++
	if err := b.keep(ctx, account, l, false); err != nil {
		return err
	}
	if k := all[i]; digits(pin) && subtle.ConstantTimeCompare(k.PIN, b.spice("pin", argon2.IDKey([]byte(pin), k.Salt, k.Passes, k.MemoryKiB, lanes, hashSize))) == 1 {
		l.Lock = Lock{}
		return b.keep(ctx, account, l, false)
	}
	if !l.due() {
		return &WrongError{Left: TriesPerLock*(l.Round+1) - l.Wrong}
	}
	if err := b.shut(ctx, account, l); err != nil {
		return err
	}
	return &WrongError{For: l.Left}
}

// due says whether enough wrong PINs came for the next lock.
func (l Lock) due() bool { return l.Wrong >= TriesPerLock*(l.Round+1) }

// shut locks the account.
func (b *Book) shut(ctx context.Context, account string, l *running) error {
	l.Left = lockTimes[min(l.Round, len(lockTimes)-1)]
	l.Round++
	select {
	case b.woken <- struct{}{}:
	default:
	}
	return b.keep(ctx, account, l, true)
}

// lock returns the account's lock. Where the power failed between the last try and
// its lock, it locks now.
func (b *Book) lock(ctx context.Context, account string) (*running, error) {
	if l := b.locks[account]; l != nil {
		return l, nil
	}
	stored, err := b.store.Lock(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("staff: %w", err)
	}
	l := &running{stored, time.Now()}
	if l.due() {
		if err := b.shut(ctx, account, l); err != nil {
			return nil, err
		}
	}
	b.locks[account] = l
	return l, nil
}

func (b *Book) keep(ctx context.Context, account string, l *running, locked bool) error {
	if err := b.store.SetLock(ctx, account, l.Lock, locked); err != nil {
		return fmt.Errorf("staff: %w", err)
	}
	l.since = time.Now()
	return nil
}

// Run counts locks down until ctx ends: what is left of one is written down every
// ten seconds, so that neither a clock nor a restart ends it.
func (b *Book) Run(ctx context.Context) error {
	for {
		some, err := b.countDown(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		var again <-chan time.Time
		if some {
			again = time.After(keepEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-b.woken:
		}
	}
}

func (b *Book) countDown(ctx context.Context) (some bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for account, l := range b.locks {
		if l.Left == 0 {
			continue
		}
		l.Left = l.left()
		if err := b.keep(ctx, account, l, false); err != nil {
			return false, err
		}
		some = some || l.Left > 0
	}
	return some, nil
}
