package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Listen opens the socket at path for the user and the group of its folder's owner.
// What a kioskd that died left there is taken away; one that answers is not. It makes
// no folder: who may look is for whoever made that to say.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > MaxPath {
		return nil, fmt.Errorf("status socket %s: longer than %d bytes", path, MaxPath)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("status socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("status socket %s: something else is there, which stays", path)
	default:
		dialer := net.Dialer{Timeout: time.Second} // on this computer
		if c, err := dialer.DialContext(ctx, "unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("status socket %s: another kioskd answers there", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("status socket: %w", err)
		}
	}
	// Under another name first, so that nobody meets it with a wider mode.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".")
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	defer os.RemoveAll(dir) // an empty folder that stays is harmless
	hidden := filepath.Join(dir, "s")
	if len(hidden) > MaxPath {
		return nil, fmt.Errorf("status socket %s: its folder's name is too long", path)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(hidden, 0o660), os.Rename(hidden, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("status socket: %w", err), l.Close())
	}
	return socket{l, path}, nil
}

// socket takes its name away when it is closed.
type socket struct {
	net.Listener
	path string
}

func (s socket) Close() error {
	err := os.Remove(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // closed twice, or the folder went first
	}
	return errors.Join(err, s.Listener.Close())
}
