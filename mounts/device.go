package mounts

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// device is a device node.
type device struct {
	field string
	path  string
	kind  uint32 // S_IFCHR, S_IFBLK or S_IFIFO
	dev   uint64 // as of makedev(3)
	mode  uint32 // permissions
	uid   int
	gid   int
	bind  bool // the host's node is bound there: a user namespace may not make any
}

// defaultDevices are in every container (config-linux.md, "Default Devices"), in
// runc's order.
var defaultDevices = []device{
	{path: "/dev/null", dev: unix.Mkdev(1, 3)},
	{path: "/dev/random", dev: unix.Mkdev(1, 8)},
	{path: "/dev/full", dev: unix.Mkdev(1, 7)},
	{path: "/dev/tty", dev: unix.Mkdev(5, 0)},
	{path: "/dev/zero", dev: unix.Mkdev(1, 5)},
	{path: "/dev/urandom", dev: unix.Mkdev(1, 9)},
}

// nullDevice is to compare with.
var nullDevice = &device{kind: unix.S_IFCHR, dev: unix.Mkdev(1, 3)}

// compileDevices adds what is in every container's /dev, and the devices that
// the spec asks for; one of the same path takes a default one's place.
func (p *Plan) compileDevices(list []specs.LinuxDevice, userns bool) {
	taken := map[string]bool{}
	for _, d := range list {
		taken[clean(d.Path)] = true
	}
	for _, d := range defaultDevices {
		if !taken[d.path] {
			d.field, d.kind, d.mode, d.bind = "default", unix.S_IFCHR, 0o666, userns
			p.Ops = append(p.Ops, &d)
		}
	}
	kinds := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	for i, d := range list {
		op := &device{
			field: fmt.Sprintf("linux.devices[%d]", i), path: clean(d.Path), kind: kinds[d.Type], mode: 0o666, bind: userns,
			dev: unix.Mkdev(uint32(d.Major), uint32(d.Minor)),
		}
		if d.FileMode != nil {
			op.mode = uint32(*d.FileMode) & 0o7777
		}
		if d.UID != nil {
			op.uid = int(*d.UID)
		}
		if d.GID != nil {
			op.gid = int(*d.GID)
		}
		if op.path != "/dev/ptmx" { // always that of the container's own devpts
			p.Ops = append(p.Ops, op)
		}
	}
	p.Ops = append(p.Ops,
		&link{field: "default", path: "/dev/ptmx", to: "pts/ptmx", replace: true},
		&link{field: "default", path: "/dev/fd", to: "/proc/self/fd"},
		&link{field: "default", path: "/dev/stdin", to: "/proc/self/fd/0"},
		&link{field: "default", path: "/dev/stdout", to: "/proc/self/fd/1"},
		&link{field: "default", path: "/dev/stderr", to: "/proc/self/fd/2"},
		&link{field: "default", path: "/dev/core", to: "/proc/kcore", ifExists: true},
	)
}

// Line describes the operation.
func (d *device) Line() Line {
	how := map[uint32]string{unix.S_IFCHR: "char", unix.S_IFBLK: "block", unix.S_IFIFO: "fifo"}[d.kind]
	if d.bind {
		how = "bound " + how
	}
	return Line{
		Field: d.field, Action: how, Source: fmt.Sprintf("%d:%d", unix.Major(d.dev), unix.Minor(d.dev)), Dest: d.path,
		Options: fmt.Sprintf("mode=%#o,uid=%d,gid=%d", d.mode, d.uid, d.gid),
	}
}

func (d *device) do(t *tree) error {
	if err := d.place(t); err != nil {
		return fmt.Errorf("make device %s (%s): %w", d.path, d.field, err)
	}
	return nil
}

func (d *device) place(t *tree) error {
	// Where the image has a link as /dev, this is a directory inside of the
	// root (CVE-2026-41579, CVE-2026-47766).
	dir, name, err := t.root.Parent(d.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if d.bind {
		return d.bindFromHost(dir, name)
	}
	err = unix.Mknodat(int(dir.Fd()), name, d.kind|d.mode, int(d.dev))
	if errors.Is(err, unix.EPERM) {
		return d.bindFromHost(dir, name)
	}
	exists := errors.Is(err, unix.EEXIST)
	if err != nil && !exists {
		return os.NewSyscallError("mknodat", err)
	}
	node, err := openNode(dir, name)
	if err != nil {
		return err
	}
	defer node.Close()
	if err := d.verify(node); err != nil || exists {
		return err
	}
	if d.uid == 0 && d.gid == 0 {
		return nil // the thread's umask is 0: nothing to correct
	}
	return os.NewSyscallError("fchownat", unix.Fchownat(int(node.Fd()), "", d.uid, d.gid, unix.AT_EMPTY_PATH))
}

// verify makes sure that a node is the device: what the image has in its place
// must be it (config-linux.md, "Devices").
func (d *device) verify(node *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(node.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != d.kind || d.kind != unix.S_IFIFO && st.Rdev != d.dev {
		return fmt.Errorf("there is something else: mode %#o, device %d:%d", st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return nil
}

// bindFromHost mounts the node which the host has at the same path.
func (d *device) bindFromHost(dir *os.File, name string) error {
	tree, err := openTree(unix.AT_FDCWD, d.path, 0, false)
	if err != nil {
		return fmt.Errorf("take the host's %s: %w", d.path, err)
	}
	defer tree.Close()
	if err := d.verify(tree); err != nil {
		return fmt.Errorf("take the host's %s: %w", d.path, err)
	}
	file, err := mountPoint(dir, name)
	if err != nil {
		return err
	}
	defer file.Close()
	return attach(tree, file)
}

// mountPoint opens the file to mount a node on, which is made if it is missing.
func mountPoint(dir *os.File, name string) (*os.File, error) {
	err := unix.Mknodat(int(dir.Fd()), name, unix.S_IFREG, 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, os.NewSyscallError("mknodat", err)
	}
	file, err := openNode(dir, name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Mode()&os.ModeSymlink != 0 {
		err = fmt.Errorf("%s is a symbolic link", name)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// openNode opens what is at a name, without following it or waking up a device.
func openNode(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "openat", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// link is a symbolic link.
type link struct {
	field    string
	path, to string
	replace  bool // what is there is removed; else it stays
	ifExists bool // only where the host has what it leads to
}

// Line describes the operation.
func (l *link) Line() Line { return Line{Field: l.field, Action: "link", Source: l.to, Dest: l.path} }

func (l *link) do(t *tree) error {
	if err := l.place(t); err != nil {
		return fmt.Errorf("link %s to %s: %w", l.path, l.to, err)
	}
	return nil
}

func (l *link) place(t *tree) error {
	if l.ifExists {
		if _, err := os.Stat(l.to); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	dir, name, err := t.root.Parent(l.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if l.replace {
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return os.NewSyscallError("unlinkat", err)
		}
	}
	err = unix.Symlinkat(l.to, int(dir.Fd()), name)
	if errors.Is(err, unix.EEXIST) && !l.replace {
		return nil
	}
	return os.NewSyscallError("symlinkat", err)
}
