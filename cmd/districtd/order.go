package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Bounds of the line on which orders reach the running districtd. Whoever may open
// it may read the keys beside it as well: the folder's mode is what keeps it.
const (
	orderLimit = 30 * time.Second // every desired state may have to be signed anew
	maxOrder   = 4 << 10
)

// order is what an officer said, on its way to the one who does it.
type order struct {
	words  []string
	answer chan reply // takes one without waiting
}

// reply is what the officer is told.
type reply struct {
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// linePath is the path of the line. It goes by way of the open folder, because the
// name of a socket may have no more than 107 characters.
func linePath(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), officeLine) }

// listenOrders opens the line. The data folder is locked, so whatever is there is
// left over from a process that died.
func listenOrders(data string) (net.Listener, error) {
	dir, err := os.Open(data)
	if err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	defer dir.Close()
	if err := os.Remove(filepath.Join(data, officeLine)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("orders: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: linePath(dir), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	l.SetUnlinkOnClose(false) // its path is no longer ours once dir is closed; the next start removes it
	if err := os.Chmod(filepath.Join(data, officeLine), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("orders: %w", err), l.Close())
	}
	return l, nil
}

// takeOrders serves the line until ctx ends.
func takeOrders(ctx context.Context, l net.Listener, orders chan<- order) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("orders: %w", err)
		}
		serving.Go(func() { takeOrder(ctx, c, orders) })
	}
}

func takeOrder(ctx context.Context, c net.Conn, orders chan<- order) {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(orderLimit)); err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	q := order{answer: make(chan reply, 1)}
	if err := json.NewDecoder(io.LimitReader(c, maxOrder)).Decode(&q.words); err != nil {
		json.NewEncoder(c).Encode(reply{Error: "the order is not understood"}) // whoever sent it may be gone
		return
	}
	select {
	case orders <- q:
	case <-ctx.Done():
		return
	}
	select {
	case r := <-q.answer:
		json.NewEncoder(c).Encode(r) // whoever asked may be gone; what was done is done
	case <-ctx.Done():
	}
}

// errNotRunning says that no districtd takes orders.
var errNotRunning = errors.New("districtd is not running")

// giveOrder has the running districtd carry an order out.
func giveOrder(ctx context.Context, data string, words []string) (string, error) {
	dir, err := os.Open(data)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errNotRunning
	}
	if err != nil {
		return "", fmt.Errorf("orders: %w", err)
	}
	defer dir.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", linePath(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return "", errNotRunning
	}
	if err != nil {
		return "", fmt.Errorf("orders: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(orderLimit)); err != nil {
		return "", fmt.Errorf("orders: %w", err)
	}
	var r reply
	if err := json.NewEncoder(c).Encode(words); err != nil {
		return "", fmt.Errorf("orders: %w", err)
	}
	if err := json.NewDecoder(c).Decode(&r); err != nil {
		return "", fmt.Errorf("orders: districtd did not answer: %w", err)
	}
	if r.Error != "" {
		return "", errors.New(r.Error)
	}
	return r.Text, nil
}

// carryOut carries an order out, in the running districtd or, where none runs, here.
func carryOut(ctx context.Context, cfg Config, words []string, log *slog.Logger) (string, error) {
	text, err := giveOrder(ctx, cfg.Data, words)
	if !errors.Is(err, errNotRunning) {
		return text, err
	}
	if err := ours(cfg.Data); err != nil {
		return "", err
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return "", fmt.Errorf("data folder: %w", err)
	}
	held, err := lock(cfg.Data)
	if err != nil {
		return "", err // it is just starting
	}
	defer held.Close()
	o, err := openOffice(ctx, cfg, nil, log)
	if err != nil {
		return "", err
	}
	text, err = o.do(ctx, words)
	return text, errors.Join(err, o.d.Close())
}

// ours refuses to work in a folder of somebody else's: what we would make there,
// districtd could not read.
func ours(data string) error {
	info, err := os.Stat(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("data folder %s: it belongs to the user with the number %d: give the order as that user, with sudo -u", data, s.Uid)
	}
	return nil
}
