package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a root with links that try to leave it, and returns it with the
// host's directory around it.
func tree(t *testing.T) (Root, string) {
	t.Helper()
	host := t.TempDir()
	root := filepath.Join(host, "root")
	for _, dir := range []string{"etc", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"abs":      "/etc",
		"out":      "../../../../../../..",
		"hostabs":  host,
		"dangling": "/run/missing",
		"relative": "usr/../etc",
		"loop":     "loop",
		"usr/up":   "../../../etc",
		"magic":    "/proc/self/cwd",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return Root{f}, host
}

func TestRootMkdirAll(t *testing.T) {
	for name, want := range map[string]string{
		"/":                      "/",
		"a/b/c":                  "/a/b/c",
		"abs/x":                  "/etc/x",
		"../../escape":           "/escape",
		"out/escape2":            "/escape2",
		"dangling/x":             "/run/missing/x",
		"relative/y":             "/etc/y",
		"usr/up/z":               "/etc/z",
		"usr/lib/../bin":         "/usr/bin",
		"etc":                    "/etc",
		"dangling/../../d":       "/d",
		"abs/../../../../q/../r": "/r",
	} {
		root, host := tree(t)
		dir, err := root.MkdirAll(name)
		if err != nil {
			t.Errorf("MkdirAll(%q): %v", name, err)
			continue
		}
		got, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd()))))
		dir.Close()
		if want := filepath.Join(host, "root", want); err != nil || got != want {
			t.Errorf("MkdirAll(%q) is %s, want %s (%v)", name, got, want, err)
		}
		if entries, _ := os.ReadDir(host); len(entries) != 1 {
			t.Errorf("MkdirAll(%q) made something outside: %v", name, entries)
		}
	}
}

func TestRootRefuses(t *testing.T) {
	root, _ := tree(t)
	if err := os.WriteFile(filepath.Join(root.Name(), "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"loop":   unix.ELOOP,
		"loop/x": unix.ELOOP,
		"file/x": unix.ENOTDIR,
		"file":   unix.ENOTDIR,
	} {
		if dir, err := root.MkdirAll(name); err == nil {
			dir.Close()
			t.Errorf("MkdirAll(%q) succeeded", name)
		} else if !errors.Is(err, want) {
			t.Errorf("MkdirAll(%q): %v, want %v", name, err, want)
		}
	}
}

func TestRootCreateFile(t *testing.T) {
	for name, want := range map[string]string{
		"a/b":         "/a/b",
		"dangling":    "/run/missing",
		"out/escaped": "/escaped",
		"hostabs":     "", // resolves to a path of the same name below the root
	} {
		root, host := tree(t)
		if want == "" {
			want = host
		}
		f, err := root.CreateFile(name)
		if err != nil {
			t.Errorf("CreateFile(%q): %v", name, err)
			continue
		}
		got, _ := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd()))))
		f.Close()
		if want := filepath.Join(host, "root", want); got != want {
			t.Errorf("CreateFile(%q) is %s, want %s", name, got, want)
		}
	}
}
