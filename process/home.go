package process

import (
	"bytes"
	"os"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/spec"
)

// maxPasswd is how much of an image's /etc/passwd is read (CVE-2026-47262 was a
// file without end).
const maxPasswd = 1 << 20

// homeVariable is the variable HOME of a process, with its NUL, as the script
// takes it. If the environment has one it is only the NUL.
func homeVariable(root *os.File, p *specs.Process) []byte {
	if _, set := spec.Environment(p.Env); set {
		return []byte{0}
	}
	home := homeOf(root, int(p.User.UID))
	if home == "" || len(home) >= unix.PathMax || strings.Contains(home, "\x00") {
		home = "/"
	}
	return []byte("HOME=" + home + "\x00")
}

// homeOf is the home directory of a user in the container, "" if it is not known.
func homeOf(root *os.File, uid int) string {
	// The image may have a FIFO there, or a link to a device.
	f, err := kernel.Root{File: root}.Open("/etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	text := readNow(f, maxPasswd)
	found, err := user.ParsePasswdFilter(bytes.NewReader(text), func(u user.User) bool { return u.Uid == uid })
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0].Home
}

// readNow reads what a file that was opened with O_NONBLOCK has now, up to a
// limit. Its Read would wait if it has nothing: a link to /proc/kmsg looks like
// a regular file, and never ends.
func readNow(f *os.File, limit int) []byte {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	text := make([]byte, limit)
	n := 0
	_ = conn.Read(func(fd uintptr) bool {
		for n < limit {
			more, err := unix.Read(int(fd), text[n:])
			if err == unix.EINTR {
				continue
			}
			if err != nil || more <= 0 {
				break
			}
			n += more
		}
		return true
	})
	return text[:n]
}
