package process

import (
	"io"
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
	f, err := kernel.Root{File: root}.OpenRegular("/etc/passwd")
	if err != nil {
		return ""
	}
	defer f.Close()
	found, err := user.ParsePasswdFilter(io.LimitReader(f, maxPasswd), func(u user.User) bool { return u.Uid == uid })
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0].Home
}
