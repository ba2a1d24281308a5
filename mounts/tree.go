package mounts

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// Builder has what Plan.Build needs from outside of the calling thread.
type Builder struct {
	// Supers are the mounts that the init made of Plan.Supers, in their order.
	Supers []*os.File
	// Owner is the root of the container's user namespace as the host sees
	// it; 0, 0 without one. What is made in the container belongs to it.
	OwnerUID, OwnerGID int
	// OpenProc opens a context (fsopen(2)) for a procfs of the container's pid
	// namespace; see Config.EntersLast.
	OpenProc func() (*os.File, error)
	// UserNS opens a user namespace with the mappings, or the container's own
	// for nil.
	UserNS func(*Mappings) (*os.File, error)
}

// Build puts the file system together in the mount namespace of the calling
// thread, which must not be used for anything else after that. It returns the
// container's root (O_PATH).
func (p *Plan) Build(b Builder) (_ *os.File, err error) {
	if err := become(b.OwnerUID, b.OwnerGID); err != nil {
		return nil, err
	}
	t := &tree{Builder: b, sources: map[*bind]*os.File{}}
	defer func() { err = errors.Join(err, t.close()) }()
	if p.peers {
		if err := t.openSources(p); err != nil {
			return nil, err
		}
	}
	if p.Strip {
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return nil, os.NewSyscallError("mount", err)
		}
	}
	root, err := p.buildRoot(b)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Close())
		}
	}()
	t.root = kernel.Root{File: root}
	if err := t.do(p.Ops); err != nil {
		return nil, err
	}
	return root, nil
}

// Finish does what comes when nothing else is made in the container, by hooks for
// instance: what is read-only or hidden from then on. console, if it is not nil, is
// a terminal for /dev/console. It is called as Build is.
func (p *Plan) Finish(b Builder, root, console *os.File) (err error) {
	if err := become(b.OwnerUID, b.OwnerGID); err != nil {
		return err
	}
	t := &tree{Builder: b, root: kernel.Root{File: root}}
	defer func() { err = errors.Join(err, t.close()) }()
	if console != nil {
		if err := bindConsole(t.root, console); err != nil {
			return fmt.Errorf("mount /dev/console (process.terminal): %w", err)
		}
	}
	if err := t.do(p.Final); err != nil {
		return err
	}
	if p.Strip {
		return strip(root)
	}
	return nil
}

func (t *tree) do(ops []Op) error {
	for _, op := range ops {
		if err := op.do(t); err != nil {
			return err
		}
	}
	return nil
}

// become makes the thread create files as the owner, and of whatever mode is
// asked for. It keeps all capabilities: changing the fsuid takes those away
// that have to do with files (setfsuid(2)).
func become(uid, gid int) error {
	unix.Umask(0) // the thread has an fs_struct of its own, see kernel.EnterMounts
	if uid == 0 && gid == 0 {
		return nil
	}
	if err := errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid)); err != nil {
		return fmt.Errorf("create files as %d:%d: %w", uid, gid, err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	return os.NewSyscallError("capset", unix.Capset(&header, &data[0]))
}

// tree is the container's file system while it is being put together.
type tree struct {
	Builder
	root  kernel.Root
	empty *os.File // an empty, read-only file system, to mask directories
	path  string   // where the root is in the mount namespace, see inside

	// sources are the trees of bind mounts, as far as they exist yet. Where
	// isolate is needed they are taken before it, since it takes the mount that
	// they may be on out of its peer group: what is mounted on the host later
	// would not get into the container, nor, with shared, the other way. Else
	// they are not: beyond 256 open descriptors, every doubling of their table
	// waits for a grace period of RCU, 15 to 40 ms.
	sources map[*bind]*os.File
}

func (t *tree) openSources(p *Plan) error {
	for _, op := range p.Ops {
		b, ok := op.(*bind)
		if !ok || strings.HasPrefix(b.source+"/", p.Rootfs+"/") {
			continue // it is in the root, which is not there yet
		}
		tree, err := openTree(unix.AT_FDCWD, b.source, 0, b.options.Recursive)
		if errors.Is(err, unix.ENOENT) {
			continue // a link may lead there
		}
		if err != nil {
			return b.explain(err)
		}
		t.sources[b] = tree
	}
	return nil
}

func (t *tree) close() error {
	var errs []error
	for _, f := range t.sources {
		errs = append(errs, f.Close())
	}
	if t.empty != nil {
		errs = append(errs, t.empty.Close())
	}
	return errors.Join(errs...)
}

// attach places a detached mount on a directory or file of the container.
func attach(mount, dest *os.File) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	return os.NewSyscallError("move_mount", unix.MoveMount(int(mount.Fd()), "", int(dest.Fd()), "", flags))
}

// clone makes a detached copy of the mount that f is in, with f as its root.
func clone(f *os.File, recursive bool) (*os.File, error) {
	return openTree(int(f.Fd()), "", unix.AT_EMPTY_PATH, recursive)
}

func openTree(dir int, name string, flags uint, recursive bool) (*os.File, error) {
	flags |= unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(dir, name, flags)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// setattr changes a mount that f is the root of.
func setattr(f *os.File, attr unix.MountAttr, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(int(f.Fd()), "", flags, &attr))
}

// newMount makes a superblock and a detached mount of it.
func newMount(s Super) (*os.File, error) {
	context, err := unix.Fsopen(s.Type, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("this kernel has no file system %q: %w", s.Type, err)
	}
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(context)
	return s.mount(context)
}

// mount makes the superblock of an open context, and a detached mount of it.
func (s Super) mount(context int) (_ *os.File, err error) {
	for _, p := range s.Params {
		if p.Flag {
			err = unix.FsconfigSetFlag(context, p.Key)
		} else {
			err = unix.FsconfigSetString(context, p.Key, p.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("option %s: %w", p, Explain(context, err))
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, Explain(context, err)
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, int(s.Attrs))
	if err != nil {
		return nil, Explain(context, os.NewSyscallError("fsmount", err))
	}
	return os.NewFile(uintptr(fd), s.Type), nil
}

// Explain adds what the file system itself says about an error, which it leaves
// in the log of its context (fsconfig(2), "message retrieval interface").
func Explain(context int, err error) error {
	var said []string
	buf := make([]byte, 1024)
	for len(said) < 8 {
		n, readErr := unix.Read(context, buf)
		if readErr != nil {
			break
		}
		// "e tmpfs: Bad value for 'size'": severity, then the message.
		_, text, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
		said = append(said, text)
	}
	if len(said) == 0 {
		return err
	}
	return fmt.Errorf("%s: %w", strings.Join(said, "; "), err)
}

// inside returns the path of an open file as the container will see it.
func (t *tree) inside(f *os.File) (string, error) {
	// Links that the kernel makes for us; /proc is the host's.
	full, err := os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	if t.path == "" {
		if t.path, err = os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", t.root.Fd())); err != nil {
			return "", err
		}
	}
	rest, ok := strings.CutPrefix(full, strings.TrimSuffix(t.path, "/"))
	if !ok {
		return "", fmt.Errorf("%s is outside of the root, %s", full, t.path)
	}
	return clean(rest), nil
}
