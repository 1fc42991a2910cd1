package deploy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The same sources give the same bytes: from another folder, at another time, under
// another umask.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Mkdir(there, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"cmd", "daemon", "firmware", "protocol", "deploy", "go.mod", "go.sum", "LICENSE"} {
		run(t, nil, "sh", "-c", `umask 077; cp -R "$1" "$2"`, "sh", filepath.Join(here, part), there)
	}
	for _, name := range []string{"yaoju-kiosk", "yaoju-district"} {
		for _, arch := range []string{"amd64", "arm64"} {
			t.Run(name+"_"+arch, func(t *testing.T) {
				one, two := pack(t, here, name, arch, version), pack(t, there, name, arch, version)
				if a, b := sum(t, one), sum(t, two); a != b {
					t.Errorf("%s, and %s from another folder", a, b)
				}
				if got, want := filepath.Base(one), name+"_"+version+"_"+arch+".deb"; got != want {
					t.Errorf("file %s, want %s", got, want)
				}
				machine := map[string]string{"amd64": "x86-64", "arm64": "aarch64"}[arch]
				for _, program := range programs(name) {
					if got := elfMachine(t, one, program); got != machine {
						t.Errorf("%s is for %s", program, got)
					}
				}
			})
		}
	}
}

// Nothing in a package belongs to whoever built it or can be written by others.
func TestContents(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"yaoju-kiosk", "yaoju-district"} {
		file := pack(t, "..", name, "amd64", version)
		var files []string
		for _, line := range strings.Split(strings.TrimSpace(run(t, nil, "dpkg-deb", "--contents", file)), "\n") {
			f := strings.Fields(line)
			mode, owner, path := f[0], f[1], strings.TrimPrefix(f[5], ".")
			program := !strings.HasSuffix(path, ".json") && slices.ContainsFunc([]string{"/usr/bin/", "/usr/sbin/", "/usr/lib/yaoju/", "/usr/lib/yaoju-district/"},
				func(folder string) bool { return strings.HasPrefix(path, folder) })
			want := "-rw-r--r--"
			if strings.HasSuffix(path, "/") {
				want = "drwxr-xr-x"
			} else if program {
				want = "-rwxr-xr-x"
			}
			if mode != want || owner != "root/root" {
				t.Errorf("%s: %s is %s of %s, want %s of root/root", name, path, mode, owner, want)
			}
			if !strings.HasSuffix(path, "/") {
				files = append(files, path)
			}
		}
		control := t.TempDir()
		run(t, nil, "dpkg-deb", "--control", file, control)
		conffiles, err := os.ReadFile(filepath.Join(control, "conffiles"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // not every package has some
			t.Fatal(err)
		}
		for _, conf := range strings.Fields(string(conffiles)) {
			if i := slices.Index(files, conf); i < 0 {
				t.Errorf("%s: conffile %s is not in the package", name, conf)
			} else {
				files = slices.Delete(files, i, i+1)
			}
		}
		for _, f := range files {
			if strings.HasPrefix(f, "/etc/") {
				t.Errorf("%s: %s is no conffile: an upgrade would overwrite what an officer wrote", name, f)
			}
		}
	}
}

// programs are where a package has them.
func programs(name string) []string {
	if name == "yaoju-kiosk" {
		return []string{"usr/lib/yaoju/base/kioskd", "usr/lib/yaoju/base/yaoju"}
	}
	return []string{"usr/bin/districtd"}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
