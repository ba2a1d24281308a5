package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// attributes are the names below a directory, with their mode, owner, device and
// content or target.
func attributes(dir string) string {
	var all []string
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		content := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			text, _ := os.ReadFile(path)
			content = fmt.Sprintf("%.10q of %d", text, len(text))
		case unix.S_IFLNK:
			content, _ = os.Readlink(path)
		}
		all = append(all, fmt.Sprintf("%s %o %d:%d %#x %s", strings.TrimPrefix(path, dir), st.Mode, st.Uid, st.Gid, st.Rdev, content))
		return err
	})
	return strings.Join(all, "\n")
}

func copiedUp(options ...string) func(*specs.Spec) {
	return mounting(specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: append(options, "tmpcopyup")})
}

func TestCopyUp(t *testing.T) {
	_, rootfs := image(t, "data/empty/", "data/a/b/c/d/file", "data/setuid", "data/link -> /etc/passwd", "data/a/big")
	data := rootfs + "/data"
	err := errors.Join(
		os.WriteFile(data+"/a/big", make([]byte, 3<<20), 0o600),
		os.Lchown(data+"/link", 5, 6), os.Chown(data+"/setuid", 1000, 2000), os.Chmod(data+"/setuid", os.ModeSetuid|0o751),
		os.Chmod(data+"/empty", os.ModeSticky|0o777), os.Chown(data+"/a", 7, 8), os.Chmod(data+"/a", 0o500),
		unix.Mkfifo(data+"/fifo", 0o640), unix.Mknod(data+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
	)
	if err != nil {
		t.Fatal(err)
	}
	want := attributes(data)
	for _, option := range []string{"rw", "ro"} {
		apart(t, func() error {
			err := tryBuild(container(copiedUp(option)), rootfs)
			if got := attributes(data); got != want || fileSystem(data) != unix.TMPFS_MAGIC {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			return err
		})
	}
}

// What is copied takes the host's memory, not the container's.
func TestCopyUpLimit(t *testing.T) {
	_, rootfs := image(t, "data/file")
	for i := range 20 {
		if err := os.WriteFile(fmt.Sprintf("%s/data/%d", rootfs, i), make([]byte, i*50<<10), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	limited := func(limit int64) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		}
	}
	for limit, fits := range map[int64]bool{-1: true, 20 << 20: true, 5 << 20: false, 4 << 10: false} {
		apart(t, func() error {
			err := tryBuild(container(copiedUp(), limited(limit)), rootfs)
			if fits {
				return err
			}
			if err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit") {
				return fmt.Errorf("with a limit of %d: %w", limit, err)
			}
			return nil
		})
	}
}
