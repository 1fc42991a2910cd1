package district

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// EndedKeys lists the keys that are no machine's any more, revoked or replaced, while
// a certificate for them may still hold. A broker that is a program of its own is told
// of them; the one in here asks for each connection.
func (d *District) EndedKeys(ctx context.Context) ([][32]byte, error) {
	var out [][32]byte
	err := rows(ctx, d.store.read, `SELECT key FROM machine_key WHERE ended_ms IS NOT NULL AND until_ms > ? ORDER BY key`, []any{time.Now().UnixMilli()}, func(r *sql.Rows) error {
		var b []byte
		if err := r.Scan(&b); err != nil {
			return err
		}
		if len(b) != 32 {
			return fmt.Errorf("a key has %d bytes", len(b))
		}
		out = append(out, [32]byte(b))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the keys that ended: %w", err)
	}
	return out, nil
}
