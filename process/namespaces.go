package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/plan"
	"github.com/myshim/myshim/process/spec"
)

// checkNamespaces looks at the namespaces that are given by path: they must exist,
// and not be the host's where something in them is to be changed.
func checkNamespaces(s *spec.Container) error {
	for i, ns := range s.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		if ns.Path == "" {
			if ns.Type == specs.TimeNamespace {
				if switches, err := kernel.SwitchesTime(); err != nil || !switches {
					return errors.Join(spec.Invalid(field, "a new time namespace needs Linux 6.1"), err)
				}
			}
			continue
		}
		f, err := openNamespace(ns, field+".path")
		if err != nil {
			return err
		}
		err = checkJoined(s.Linux, ns.Type, f, field+".path")
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func checkJoined(linux *specs.Linux, kind specs.LinuxNamespaceType, f *os.File, field string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	own, ok := namespaceInode("self", namespaceFile(string(kind)))
	host := ok && own == info.Sys().(*syscall.Stat_t).Ino
	if host {
		for key := range linux.Sysctl {
			if spec.SysctlNamespace(key) == kind {
				return spec.Invalid("linux.sysctl["+key+"]", "the namespace of type %s at %s is the host's", kind, f.Name())
			}
		}
	}
	if kind != specs.UserNamespace {
		return nil
	}
	if host {
		return spec.Invalid(field, "the user namespace is the host's, which cannot be entered again")
	}
	return takeMappings(linux, f, field)
}

// openNamespace opens a namespace given by path, and makes sure that it is one of
// the kind it is meant to be.
func openNamespace(ns specs.LinuxNamespace, field string) (*os.File, error) {
	file, err := os.OpenFile(ns.Path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, spec.Invalid(field, "%w", err)
	}
	flag, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || uint64(flag) != plan.CloneFlag(ns.Type) {
		return nil, errors.Join(spec.Invalid(field, "%s is not a namespace of type %s", ns.Path, ns.Type), file.Close())
	}
	return file, nil
}

// namespaceFile is the name in /proc/PID/ns of what the OCI calls kind.
func namespaceFile(kind string) string {
	switch kind {
	case "network":
		return "net"
	case "mount":
		return "mnt"
	}
	return kind
}

func namespaceInode(pid, file string) (uint64, bool) {
	info, err := os.Stat(filepath.Join("/proc", pid, "ns", file))
	if err != nil {
		return 0, false
	}
	return info.Sys().(*syscall.Stat_t).Ino, true
}

// writeTimeOffsets sets the clocks of the init's new time namespace.
func (c *Container) writeTimeOffsets(pid int) error {
	var b strings.Builder
	for clock, o := range c.spec.Linux.TimeOffsets {
		fmt.Fprintf(&b, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	if b.Len() == 0 {
		return nil
	}
	if err := writeProc(pid, "timens_offsets", b.String()); err != nil {
		return fmt.Errorf("linux.timeOffsets: %w", err)
	}
	return nil
}

// writeProc writes to a file of a child of ours: its pid is no other's. The file
// must be written at once.
func writeProc(pid int, file, text string) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", pid, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
