package kernel

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Only a context for a procfs is one.
func TestVerifyProc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("opening file systems needs root")
	}
	open := func(t *testing.T, kind string) *os.File {
		fd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
		if err != nil {
			t.Skipf("%s: %v", kind, err)
		}
		return os.NewFile(uintptr(fd), kind)
	}
	proc := open(t, "proc")
	defer proc.Close()
	if err := VerifyProc(proc); err != nil {
		t.Error(err)
	}
	if err := unix.FsconfigCreate(int(proc.Fd())); err != nil {
		t.Errorf("it is of no use afterwards: %v", err)
	}
	for _, kind := range []string{"tmpfs", "overlay", "sysfs", "cgroup2", "debugfs", "tracefs", "ramfs", "binfmt_misc", "ext4", "mqueue", "devpts", "bpf", "securityfs", "pstore", "efivarfs", "fuse", "hugetlbfs"} {
		t.Run(kind, func(t *testing.T) {
			other := open(t, kind)
			defer other.Close()
			if err := VerifyProc(other); err == nil {
				t.Error("taken for a procfs")
			}
		})
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := VerifyProc(r); err == nil {
		t.Error("a pipe taken for a procfs")
	}
}
