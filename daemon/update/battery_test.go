package update_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yaoju/daemon/update"
)

func TestTry(t *testing.T) {
	const good = `case $1 in -version) echo kioskd 1.1;; -check) [ "$2 $3" = "-config CONFIG" ] && echo good;; *) exit 2;; esac`
	for name, c := range map[string]struct {
		kioskd, yaoju string
		want          string // refusal; empty: all is well
	}{
		"good":             {good, "echo yaoju 1.1", ""},
		"another version":  {strings.Replace(good, "1.1", "1.7", 1), "echo yaoju 1.1", `kioskd says it is "kioskd 1.7"`},
		"crashes":          {"kill -SEGV $$", "echo yaoju 1.1", "kioskd of version 1.1 does not run here"},
		"tool is another":  {good, "echo yaoju 1.0", `yaoju says it is "yaoju 1.0"`},
		"another language": {"", "", "does not run here"},
		"refuses the configuration": {`[ $1 = -version ] && echo kioskd 1.1 && exit; echo kioskd.toml:7: volume: unknown key >&2; exit 2`, "echo yaoju 1.1",
			"does not take this machine's configuration: kioskd.toml:7: volume: unknown key"},
	} {
		dir := t.TempDir()
		config := filepath.Join(dir, "kioskd.toml")
		for at, text := range map[string]string{config: "", filepath.Join(dir, "kioskd"): c.kioskd, filepath.Join(dir, "yaoju"): c.yaoju} {
			if text != "" {
				text = "#!/bin/sh\n" + strings.ReplaceAll(text, "CONFIG", config) + "\n"
			}
			if name == "another language" && at != config {
				text = "\x7fELF of another machine"
			}
			if err := os.WriteFile(at, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		err := update.Try(context.Background(), dir, "1.1", config)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != "" {
			refused(t, err, c.want)
		}
	}
}

// A daemon that is being stopped has no opinion on the release.
func TestTryStopped(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kioskd.toml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if err := update.Try(ctx, dir, "1.1", filepath.Join(dir, "kioskd.toml")); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}
