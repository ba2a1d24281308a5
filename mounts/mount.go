package mounts

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is a file system of its own.
type mount struct {
	field   string
	kind    string
	source  string
	dest    string
	options Options
	label   string // SELinux context of its files, if any
	super   int    // index in Plan.Supers, -1 if the superblock is made by do
	memory  int64  // limit of the container in bytes, if there is one, see copyUp
	outside bool   // it is a procfs of a pid namespace in which is nobody to make it
}

// Line describes the operation.
func (m *mount) Line() Line {
	line := Line{Field: m.field, Action: m.kind, Dest: m.dest, Options: m.options.String()}
	if m.super >= 0 {
		line.Super = &m.super
	}
	return line
}

// newSuper is how the superblock is made.
func (m *mount) newSuper() Super {
	s := Super{Field: m.field, Type: m.kind, Attrs: m.options.Attrs.Set}
	if m.source != "" {
		s.Params = append(s.Params, Param{Key: "source", Value: m.source})
	}
	for _, flag := range m.options.Super {
		// Only mount(2) has messages that it silences, and a flag for i_version,
		// which the file systems that know of it count anyway by now.
		if flag != "silent" && flag != "iversion" {
			s.Params = append(s.Params, Param{Key: flag, Flag: true})
		}
	}
	// As mount(2) does, the superblock is read-only too, and not only the mount.
	if m.options.has(unix.MOUNT_ATTR_RDONLY) {
		s.Params = append(s.Params, Param{Key: "ro", Flag: true})
	}
	s.Params = append(s.Params, params(m.options.Data)...)
	if !m.relabelled() {
		s.Params = append(s.Params, contextOption(m.label)...)
	}
	return s
}

// contextOption is the option for the SELinux context of all files, if there is one.
func contextOption(label string) []Param {
	if label == "" {
		return nil
	}
	return []Param{{Key: "context", Value: label}}
}

// relabelled says whether the file system has no such option, and its root is given
// the context instead.
func (m *mount) relabelled() bool { return m.label != "" && m.kind == "mqueue" }

// params are options for a file system, one by one.
func params(data []string) []Param {
	var out []Param
	for _, option := range splitOptions(data) {
		key, value, isString := strings.Cut(option, "=")
		out = append(out, Param{Key: key, Value: strings.Trim(value, `"`), Flag: !isString})
	}
	return out
}

// splitOptions splits options that are several, separated by commas, but for
// commas in double quotes: context="system_u:object_r:x:s0:c1,c2".
func splitOptions(list []string) []string {
	var out []string
	for _, s := range list {
		quoted := false
		out = append(out, strings.FieldsFunc(s, func(r rune) bool {
			if r == '"' {
				quoted = !quoted
			}
			return r == ',' && !quoted
		})...)
	}
	return out
}

func (m *mount) do(t *tree) error {
	err := m.place(t)
	if err != nil {
		return fmt.Errorf("mount %s (%s, %s): %w", m.dest, m.field, m.kind, err)
	}
	return nil
}

func (m *mount) place(t *tree) error {
	dest, existed, err := m.destination(t)
	if err != nil {
		return err
	}
	defer dest.Close()
	mode, err := m.inheritedMode(dest, existed)
	if err != nil {
		return err
	}
	var made *os.File
	switch {
	case m.super >= 0:
		made = t.Supers[m.super]
		if mode != nil {
			// By its link in /proc: there is no fchmod for O_PATH before Linux 6.6.
			if err := unix.Chmod(fmt.Sprintf("/proc/thread-self/fd/%d", made.Fd()), *mode); err != nil {
				return os.NewSyscallError("chmod", err)
			}
		}
	case m.long():
		return m.placeLong(t, dest)
	default:
		s := m.newSuper()
		if mode != nil {
			s.Params = append(s.Params, Param{Key: "mode", Value: fmt.Sprintf("%o", *mode)})
		}
		if m.outside {
			made, err = t.newProc(s)
		} else {
			made, err = newMount(s)
		}
		if err != nil {
			return err
		}
		defer made.Close()
	}
	if m.options.CopyUp {
		if err := copyUp(dest, made, m.memory); err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
	}
	if m.relabelled() {
		err := unix.Setxattr(fmt.Sprintf("/proc/thread-self/fd/%d", made.Fd()), "security.selinux", append([]byte(m.label), 0), 0)
		if err != nil {
			return fmt.Errorf("label it %s (linux.mountLabel): %w", m.label, err)
		}
	}
	if err := setRecursively(made, m.options); err != nil {
		return err
	}
	if err := attach(made, dest); err != nil {
		return err
	}
	return propagate(made, m.options)
}

// maxParam is how many bytes a parameter of fsconfig(2) may have.
const maxParam = 255

// long says whether an option is longer than that, as lowerdir of an overlay may be.
func (m *mount) long() bool {
	return slices.ContainsFunc(m.newSuper().Params, func(p Param) bool { return len(p.Value) > maxParam })
}

// placeLong mounts by mount(2), which has no limit for one option.
func (m *mount) placeLong(t *tree, dest *os.File) error {
	o := m.options
	if m.label != "" {
		o.Data = append(slices.Clone(o.Data), `context="`+m.label+`"`)
	}
	if err := (RootMount{Type: m.kind, Source: m.source}).fileSystem(dest, o); err != nil {
		return err
	}
	made, err := t.root.Open(m.dest, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := setRecursively(made, o); err != nil {
		return err
	}
	return propagate(made, o)
}

// newProc makes a procfs of the container's pid namespace.
func (t *tree) newProc(s Super) (*os.File, error) {
	context, err := t.OpenProc()
	if err != nil {
		return nil, err
	}
	defer context.Close()
	made, err := s.mount(int(context.Fd()))
	if err != nil {
		return nil, err
	}
	if err := checkProcfs(made); err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// checkProcfs makes sure that a file is in a procfs.
func checkProcfs(f *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if fs.Type != unix.PROC_SUPER_MAGIC {
		return errors.New("it is not of type proc")
	}
	return nil
}

// destination opens the directory to mount on, which is made if it is missing.
func (m *mount) destination(t *tree) (dest *os.File, existed bool, err error) {
	if m.kind == "proc" || m.kind == "sysfs" {
		dest, err = t.ordinaryDirectory(m.dest, m.kind)
	} else {
		dest, err = t.root.Open(m.dest, unix.O_PATH|unix.O_DIRECTORY)
		existed = err == nil
		if errors.Is(err, unix.ENOENT) {
			dest, err = t.root.MkdirMissing(m.dest)
		}
		if errors.Is(err, unix.ENOTDIR) {
			err = fmt.Errorf("the destination is no directory: %w", err)
		}
	}
	if err != nil {
		return nil, false, err
	}
	if err := t.checkProc(dest, m.kind, nil); err != nil {
		return nil, false, errors.Join(err, dest.Close())
	}
	return dest, existed, nil
}

// ordinaryDirectory is for file systems on whose place programs rely, the
// runtime among them: an image with a symbolic link as /proc gets none
// (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642).
func (t *tree) ordinaryDirectory(dest, kind string) (*os.File, error) {
	parent, base, err := t.root.Parent(dest)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, os.NewSyscallError("mkdirat", err)
	}
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("filesystem %q must be mounted on ordinary directory", kind)
	}
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), dest), nil
}

// checkProc refuses what would make /proc a lie: labels and sysctls written
// there by a program that trusts it would go elsewhere (CVE-2019-16884). dest is
// where it really is, after all links; source is that of a bind mount.
func (t *tree) checkProc(dest *os.File, kind string, source *os.File) error {
	at, err := t.inside(dest)
	if err != nil {
		return err
	}
	if err := checkDestination(at, kind, source != nil); err != nil || at != "/proc" || source == nil {
		return err
	}
	if err := checkProcfs(source); err != nil {
		return fmt.Errorf("%q cannot be mounted because %w", at, err)
	}
	return nil
}

// inheritedMode is the mode of a tmpfs that is not told one: that of the
// directory of the image which it covers, so that /tmp stays sticky and /root
// closed. It is nil for everything else.
func (m *mount) inheritedMode(dest *os.File, existed bool) (*uint32, error) {
	told := slices.ContainsFunc(splitOptions(m.options.Data), func(s string) bool { return strings.HasPrefix(s, "mode=") })
	if m.kind != "tmpfs" || told || !existed {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dest.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	mode := st.Mode & 0o7777
	return &mode, nil
}

func setRecursively(f *os.File, o Options) error {
	if o.Recursively.empty() {
		return nil
	}
	return setattr(f, unix.MountAttr{Attr_set: o.Recursively.Set, Attr_clr: o.Recursively.Clear}, true)
}

// propagate sets the propagation of a mount that is in its place: a peer group
// is formed with the mounts that are there.
func propagate(f *os.File, o Options) error {
	for _, p := range o.Propagation {
		if err := setattr(f, unix.MountAttr{Propagation: p.Type}, p.Recursive); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return nil
}

// seal makes a mount read-only into which files had to be made first.
type seal struct{ field, dest string }

// Line describes the operation.
func (s *seal) Line() Line { return Line{Field: s.field, Action: "read-only", Dest: s.dest} }

func (s *seal) do(t *tree) error {
	dest, err := t.root.Open(s.dest, unix.O_PATH)
	if err == nil {
		defer dest.Close()
		err = setattr(dest, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false)
	}
	if err != nil {
		return fmt.Errorf("make %s read-only (%s): %w", s.dest, s.field, err)
	}
	return nil
}
