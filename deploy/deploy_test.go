// Package deploy holds what installs machines and districts: Debian packages, units,
// settings of the host around the programs, and the scripts that make them. Its Go
// files are tests only: each file of the packages is read here by the program it is
// written for, in a small Debian 12 of its own (tree.sh), and the units are run there
// by a real systemd in an emulated computer.
//
// They need root, for chroot and name spaces, and ask sudo for it where they are not.
// They know nothing of how the programs work inside.
package deploy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commandLimit bounds one command: the longest makes the tree, from the network.
const commandLimit = 8 * time.Minute

// treeFile is the small Debian, kept between runs.
const treeFile = "../.build/deploy/tree.tar"

// output runs a command and returns all it prints.
func output(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is output for a command that must succeed.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	out, err := output(t, env, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// asRoot puts sudo before a command where it is needed.
func asRoot(name string, args ...string) []string {
	all := append([]string{name}, args...)
	if os.Getuid() != 0 {
		all = append([]string{"sudo", "-n"}, all...)
	}
	return all
}

// root runs a command as root; it must succeed.
func root(t *testing.T, name string, args ...string) string {
	t.Helper()
	all := asRoot(name, args...)
	return run(t, nil, all[0], all[1:]...)
}

// version is what test packages are called.
const version = "1.2.3"

// epoch is the time in test packages.
const epoch = "SOURCE_DATE_EPOCH=1767225600"

// pack builds a package from the sources in the folder module, and returns its file.
func pack(t *testing.T, module, name, arch, version string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(module, "deploy/build.sh"), name, arch, t.TempDir())
	cmd.Env = append(os.Environ(), epoch, "VERSION="+version)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build %s for %s: %v\n%s", name, arch, err, &errs)
	}
	return strings.TrimSpace(string(out))
}

// debian is the small Debian, unpacked, or a layer above it.
type debian struct {
	t     *testing.T
	dir   string   // its root
	below []string // folders of its layers, the uppermost first
}

// unpack makes the tree, if there is none yet, and unpacks it.
func unpack(t *testing.T) debian {
	t.Helper()
	root(t, "./tree.sh", treeFile)
	dir := scratch(t)
	root(t, "tar", "-x", "-C", dir, "-f", treeFile)
	root(t, "chmod", "755", dir)
	return debian{t, dir, []string{dir}}
}

// layer returns the tree for one test to change; what is below stays as it is.
func (d debian) layer(t *testing.T) debian {
	t.Helper()
	dir := scratch(t)
	root(t, "mkdir", "-m", "755", dir+"/upper", dir+"/work", dir+"/root")
	root(t, "mount", "-t", "overlay", "overlay", "-o", "lowerdir="+strings.Join(d.below, ":")+",upperdir="+dir+"/upper,workdir="+dir+"/work", dir+"/root")
	t.Cleanup(func() { late(t, "sh", "-c", `! mountpoint -q "$1" || umount "$1"`, "sh", dir+"/root") })
	return debian{t, dir + "/root", append([]string{dir + "/upper"}, d.below...)}
}

// seal ends all change, so that other layers may lie above this one.
func (d debian) seal() {
	d.t.Helper()
	root(d.t, "umount", d.dir)
}

// scratch is a folder for what belongs to root.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "yaoju-tree-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { late(t, "rm", "-rf", "--one-file-system", dir) })
	return dir
}

// late runs a command as root after the test, when its context has ended.
func late(t *testing.T, name string, args ...string) {
	all := asRoot(name, args...)
	if out, err := exec.Command(all[0], all[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// path is where a file of the tree lies.
func (d debian) path(name string) string { return filepath.Join(d.dir, name) }

// try runs a shell script as root inside the tree, with processes, mounts and a
// network of its own.
func (d debian) try(script string) (string, error) {
	d.t.Helper()
	const inside = `set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
cd "$1"
for n in null zero full random urandom tty; do mknod -m 666 dev/$n c $(stat -c "%Hr %Lr" /dev/$n); done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
exec chroot . /bin/sh -ec "ip link set lo up
$2"`
	all := asRoot("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "sh", "-c", inside, "sh", d.dir, script)
	return output(d.t, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "TMPDIR=/tmp"}, all[0], all[1:]...)
}

// do is try for a script that must succeed.
func (d debian) do(script string) string {
	d.t.Helper()
	out, err := d.try(script)
	if err != nil {
		d.t.Fatalf("in the tree: %s: %v\n%s", script, err, out)
	}
	return out
}

// put writes a file into the tree.
func (d debian) put(name, text string, mode os.FileMode) {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	root(d.t, "install", "-D", "-m", fmt.Sprintf("%o", mode), file, d.path(name))
}

// install copies packages into the tree and installs them with dpkg.
func (d debian) install(files ...string) string {
	d.t.Helper()
	root(d.t, "mkdir", "-p", d.path("packages"))
	script := "dpkg --install"
	for _, f := range files {
		root(d.t, "cp", f, d.path("packages"))
		script += " /packages/" + filepath.Base(f)
	}
	return d.do(script)
}

// TestMain makes sure that nothing that ran as root in a tree got at this computer's
// own devices: a /dev/null that became a file would fill the disk, and nobody would see why.
func TestMain(m *testing.M) {
	before, err := os.Stat(os.DevNull)
	code := m.Run()
	after, errAfter := os.Stat(os.DevNull)
	if err != nil || errAfter != nil || before.Mode() != after.Mode() || after.Mode() != os.ModeDevice|os.ModeCharDevice|0o666 {
		fmt.Fprintf(os.Stderr, "%s was %v (%v) and is %v (%v)\n", os.DevNull, before, err, after, errAfter)
		code = 1
	}
	os.Exit(code)
}

// userGroup is who runs the tests, as chown wants it.
func userGroup() string { return fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()) }
