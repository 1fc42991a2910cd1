package identity

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// One address may ask burst times at once and then once every refill. The 5,000
// machines of a district may stand behind one address: they ask 7 times a minute.
const (
	burst  = 30
	refill = 2 * time.Second

	// maxBuckets bounds the memory; callers beyond it share one bucket.
	maxBuckets = 4096
)

// limiter counts requests by where they come from.
type limiter struct {
	mu      sync.Mutex
	buckets map[netip.Prefix]bucket // guarded by mu
}

// bucket is full again at a moment; each request moves it on.
type bucket struct{ full time.Time }

func newLimiter() *limiter { return &limiter{buckets: map[netip.Prefix]bucket{}} }

// allow notes a request and says whether it may be answered.
func (l *limiter) allow(remote string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := origin(remote)
	if _, known := l.buckets[from]; !known && len(l.buckets) >= maxBuckets {
		for p, b := range l.buckets {
			if !b.full.After(now) {
				delete(l.buckets, p)
			}
		}
		if len(l.buckets) >= maxBuckets {
			from = netip.Prefix{}
		}
	}
	b := l.buckets[from]
	if b.full.Before(now) {
		b.full = now
	}
	if b.full.Sub(now) > (burst-1)*refill {
		return false
	}
	b.full = b.full.Add(refill)
	l.buckets[from] = b
	return true
}

// origin is what one caller cannot have many of: an IPv4 address or an IPv6 network.
// What cannot be read, such as a line in memory, is the zero prefix.
func origin(remote string) netip.Prefix {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := a.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// turnstile is a listener that lets so many in at once, and so many from one
// address; the others are hung up on before they cost anything.
type turnstile struct {
	net.Listener
	all, each int

	mu     sync.Mutex
	inside map[netip.Prefix]int // guarded by mu
	count  int                  // guarded by mu
}

func newTurnstile(l net.Listener, all, each int) *turnstile {
	return &turnstile{Listener: l, all: all, each: each, inside: map[netip.Prefix]int{}}
}

// Accept returns the next connection that may stay.
func (t *turnstile) Accept() (net.Conn, error) {
	for {
		c, err := t.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := origin(c.RemoteAddr().String())
		if t.enter(from) {
			return &guest{Conn: c, leave: sync.OnceFunc(func() { t.left(from) })}, nil
		}
		c.Close() // nothing was said on it
	}
}

func (t *turnstile) enter(from netip.Prefix) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count >= t.all || t.inside[from] >= t.each && from.IsValid() {
		return false
	}
	t.count++
	t.inside[from]++
	return true
}

func (t *turnstile) left(from netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count--
	if t.inside[from]--; t.inside[from] == 0 {
		delete(t.inside, from)
	}
}

// guest is a connection inside the turnstile.
type guest struct {
	net.Conn
	leave func()
}

func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
