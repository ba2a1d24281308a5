package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// internal is how options begin that are for containerd's mount manager, and not
// for the file system.
const internal = "X-containerd."

// resolveRoot takes raw mounts apart: a type "format/overlay" says that there are
// places of other mounts to be filled in, "mkdir/overlay" that directories have
// to be made first. All mounts before the last such one have a place of their
// own, a directory with their number below rootfs, for it to refer to.
func resolveRoot(list []RootMount, rootfs string) ([]RootMount, error) {
	staged := 0
	for i, m := range list {
		if strings.HasPrefix(m.Type, "format/") || strings.HasPrefix(m.Type, "mkdir/") {
			staged = i
		}
	}
	out := make([]RootMount, 0, len(list))
	for i, m := range list {
		m.place = rootfs
		if i < staged {
			m.place, m.staged = filepath.Join(rootfs, strconv.Itoa(i)), true
		}
		m, err := m.resolve(out)
		if err != nil {
			return nil, fmt.Errorf("rootfs[%d]: %w", i, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// resolve does what the type of a raw mount asks for, the first word first.
func (m RootMount) resolve(before []RootMount) (_ RootMount, err error) {
	for kind, rest, raw := strings.Cut(m.Type, "/"); raw; kind, rest, raw = strings.Cut(m.Type, "/") {
		switch kind {
		case "format":
			m, err = m.format(before)
		case "mkdir":
			m, err = m.takeDirectories()
		default:
			err = fmt.Errorf("type %s: %s is for containerd's mount manager, not for a runtime", m.Type, kind)
		}
		if err != nil {
			return m, err
		}
		m.Type = rest
	}
	for _, option := range m.Options {
		if strings.HasPrefix(option, internal) {
			return m, fmt.Errorf("option %s: it is for containerd's mount manager, not for a runtime", option)
		}
	}
	return m, nil
}

// reference is what a format has in place of something of an earlier mount:
// "{{ mount 0 }}", "{{ overlay 0 2 }}".
var reference = regexp.MustCompile(`{{\s*([a-z]+)((?:\s+[0-9]+)+)\s*}}`)

func (m RootMount) format(before []RootMount) (RootMount, error) {
	var failed error
	fill := func(text string) string {
		out := reference.ReplaceAllStringFunc(text, func(found string) string {
			parts := reference.FindStringSubmatch(found)
			value, err := refer(parts[1], strings.Fields(parts[2]), before)
			failed = errors.Join(failed, err)
			return value
		})
		if failed == nil && strings.Contains(out, "{{") {
			failed = fmt.Errorf("%q is not understood", text)
		}
		return out
	}
	m.Source, m.Target = fill(m.Source), fill(m.Target)
	options := make([]string, len(m.Options))
	for i, option := range m.Options {
		options[i] = fill(option)
	}
	m.Options = options
	return m, failed
}

// refer is the value of a reference.
func refer(what string, numbers []string, before []RootMount) (string, error) {
	var index []int
	for _, text := range numbers {
		n, err := strconv.Atoi(text)
		if err != nil || n >= len(before) {
			return "", fmt.Errorf("%s %s: there are only %d mounts before", what, text, len(before))
		}
		index = append(index, n)
	}
	switch {
	case what == "source" && len(index) == 1:
		return before[index[0]].Source, nil
	case what == "target" && len(index) == 1:
		return before[index[0]].Target, nil
	case what == "mount" && len(index) == 1:
		return before[index[0]].place, nil
	case what == "overlay" && len(index) == 2:
		step := 1
		if index[0] > index[1] {
			step = -1
		}
		places := []string{before[index[0]].place}
		for i := index[0]; i != index[1]; {
			i += step
			places = append(places, before[i].place)
		}
		return strings.Join(places, ":"), nil
	}
	return "", fmt.Errorf("there is no %s of %d mounts", what, len(index))
}

// newDirectory is a directory to be made before a mount.
type newDirectory struct {
	path     string
	mode     uint32
	uid, gid int
}

// takeDirectories takes X-containerd.mkdir.path=PATH[:MODE[:UID:GID]] out of the
// options.
func (m RootMount) takeDirectories() (RootMount, error) {
	var rest []string
	for _, option := range m.Options {
		text, ok := strings.CutPrefix(option, internal+"mkdir.path=")
		if !ok {
			rest = append(rest, option)
			continue
		}
		d := newDirectory{mode: 0o700}
		parts := strings.Split(text, ":")
		d.path = parts[0]
		var numbers []uint64
		for i, part := range parts[1:] {
			base := 10
			if i == 0 {
				base = 8
			}
			n, err := strconv.ParseUint(part, base, 31)
			if err != nil {
				return m, fmt.Errorf("option %s: %w", option, err)
			}
			numbers = append(numbers, n)
		}
		switch len(numbers) {
		case 3:
			d.uid, d.gid = int(numbers[1]), int(numbers[2])
			fallthrough
		case 1:
			d.mode = uint32(numbers[0])
		case 0:
		default:
			return m, fmt.Errorf("option %s: it is not path[:mode[:uid:gid]]", option)
		}
		if !filepath.IsAbs(d.path) || d.mode&^0o777 != 0 {
			return m, fmt.Errorf("option %s: it is not an absolute path with a mode of at most 0777", option)
		}
		m.dirs = append(m.dirs, d)
	}
	m.Options = rest
	return m, nil
}

// make makes the directory, unless there is one. Its path may lead into an image
// that is mounted by now: what links that has in it do not lead out.
func (d newDirectory) make(stage string) error {
	from := "/"
	if rest, ok := strings.CutPrefix(d.path, stage+"/"); ok {
		number, _, _ := strings.Cut(rest, "/")
		from = filepath.Join(stage, number)
	}
	base, err := openRoot(from)
	if err != nil {
		return err
	}
	defer base.Close()
	rest, err := filepath.Rel(from, d.path)
	if err != nil {
		return err
	}
	dir, name, err := kernel.Root{File: base}.Parent(rest)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Mkdirat(int(dir.Fd()), name, d.mode)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err == nil && d.uid|d.gid != 0 {
		err = unix.Fchownat(int(dir.Fd()), name, d.uid, d.gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: d.path, Err: err}
	}
	return nil
}

// stage is where mounts are put that others refer to: a file system of its own at
// rootfs, which the root covers when it is there.
func stage(rootfs string, list []RootMount) error {
	if len(list) == 0 || !list[0].staged {
		return nil
	}
	at, err := RootMount{}.target(rootfs)
	if err != nil {
		return err
	}
	defer at.Close()
	made, err := newMount(Super{Type: "tmpfs", Params: []Param{{Key: "source", Value: "tmpfs"}, {Key: "mode", Value: "700"}}})
	if err != nil {
		return err
	}
	defer made.Close()
	return attach(made, at)
}
