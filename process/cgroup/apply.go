package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Set applies linux.resources to a new group, with the devices that every
// container may use. After an error the group has some of the limits.
func (g *Group) Set(l *specs.Linux) error {
	if l == nil {
		l = &specs.Linux{}
	}
	var r specs.LinuxResources
	if l.Resources != nil {
		r = *l.Resources
	}
	r.Devices = DeviceRules(l)
	return g.set(&r, false)
}

// Update changes limits. What r does not mention stays, and so do devices. If
// one of the limits is refused, those already changed are changed back.
//
// Updates of one group should come one after the other: the kernel has no way
// to make several at once.
func (g *Group) Update(r *specs.LinuxResources) error { return g.set(r, true) }

func (g *Group) set(r *specs.LinuxResources, update bool) error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.done()
	f, err := g.facts(update)
	if err != nil {
		return err
	}
	writes, err := Plan(r, f)
	if err != nil {
		return err
	}
	if g.Unit != "" {
		return g.setWithUnit(r, writes, f)
	}
	var undo []Write
	if update {
		undo = g.inverses(writes)
	}
	done, err := g.apply(writes)
	if err != nil && update {
		err = errors.Join(err, g.takeBack(undo[:done]))
	}
	return err
}

// setWithUnit tells systemd as well. Its own way to write some of the files is
// a little different, so ours comes after it, from what it has left there.
func (g *Group) setWithUnit(r *specs.LinuxResources, writes []Write, f Facts) error {
	props, writes, err := unitProperties(writes, f)
	if err != nil {
		return err
	}
	var undo []Write
	if f.Update {
		undo = g.inverses(writes)
	} else {
		devices, err := deviceProperties(r.Devices)
		if err != nil {
			return err
		}
		props = append(devices, props...)
	}
	if err := g.setUnit(props); err != nil {
		return err
	}
	writes, err = Plan(r, f)
	if err == nil {
		_, writes, err = unitProperties(writes, f)
	}
	if err == nil {
		_, err = g.apply(writes)
	}
	if err != nil && f.Update {
		old, back, untold := unitProperties(undo, f)
		err = errors.Join(err, untold, g.setUnit(old), g.takeBack(back))
	}
	return err
}

// facts returns what a plan for the group must know.
func (g *Group) facts(update bool) (Facts, error) {
	f := Facts{V2: g.V2(), Update: update, Read: g.read}
	if f.V2 {
		text, err := g.read("", "cgroup.controllers")
		f.Controllers = strings.Fields(text)
		return f, err
	}
	for _, d := range g.dirs {
		f.Controllers = append(f.Controllers, d.Controllers...)
	}
	return f, nil
}

// inverses are the writes that take others back, in their order.
func (g *Group) inverses(writes []Write) []Write {
	undo := make([]Write, len(writes))
	for i, w := range writes {
		if before, err := g.read(w.Controller, w.File); err == nil {
			undo[i] = inverse(w, before)
		}
	}
	return undo
}

// apply does the writes and says how many of them have been begun, if not all:
// one that fails may have done some of its lines.
func (g *Group) apply(writes []Write) (begun int, err error) {
	file := openFile{fd: -1}
	defer func() { file.close() }()
	for i, w := range writes {
		if err := g.write(&file, w); err != nil {
			if strings.Contains(w.Value, "\n") {
				i++
			}
			return i, err
		}
	}
	return len(writes), nil
}

// takeBack does writes in reverse, and so goes back through states that the
// kernel has accepted before.
func (g *Group) takeBack(undo []Write) (err error) {
	file := openFile{fd: -1}
	defer func() { file.close() }()
	for _, w := range slices.Backward(undo) {
		if w.File == "" { // a file that cannot be read
			continue
		}
		if e := g.write(&file, w); e != nil {
			err = errors.Join(err, fmt.Errorf("and back: %w", e))
		}
	}
	return err
}

// read returns what is in a file of the group.
func (g *Group) read(controller, file string) (string, error) {
	d := g.dir(controller)
	if d == nil {
		return "", &os.PathError{Op: "read", Path: file, Err: unix.ENOENT}
	}
	return d.read(file)
}

// openFile is the file written last; a list of devices goes to the same one.
type openFile struct {
	fd   int
	dir  *dir
	name string
}

func (f *openFile) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
	f.fd = -1
}

func (g *Group) write(file *openFile, w Write) error {
	fail := func(err error) error {
		return fmt.Errorf("%s: write %q to %s: %w", w.Field, w.Value, w.File, reason(err))
	}
	d := g.dir(w.Controller)
	if d == nil {
		return fail(unix.ENOENT)
	}
	if w.program != nil {
		if err := attachProgram(*d, w.program); err != nil {
			return fail(err)
		}
		return nil
	}
	if file.fd < 0 || file.dir != d || file.name != w.File {
		file.close()
		fd, err := d.open(w.File, unix.O_WRONLY)
		if w.Optional && errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fail(err)
		}
		*file = openFile{fd, d, w.File}
	}
	err := d.writeTo(file.fd, w.File, w.Value)
	if errors.Is(err, unix.EBUSY) && w.File == "memory.limit_in_bytes" {
		usage, _ := d.read("memory.usage_in_bytes")
		peak, _ := d.read("memory.max_usage_in_bytes")
		err = fmt.Errorf("%w: it is below the usage, %s (peak %s)", unix.EBUSY, strings.TrimSpace(usage), strings.TrimSpace(peak))
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// reason is the kernel's error without the name of the file, which fail has.
func reason(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}

// inverse is the write that takes another one back: before is what its file
// said.
func inverse(w Write, before string) Write {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSuffix(w.Value, "\n"), "\n") {
		lines = append(lines, inverseLine(w.File, strings.TrimSpace(line), strings.TrimSpace(before)))
	}
	w.Value = strings.Join(lines, "\n")
	return w
}

func inverseLine(file, value, before string) string {
	key, _, keyed := strings.Cut(value, " ")
	entry := func(key string) (string, bool) {
		for line := range strings.Lines(before) {
			if rest, ok := strings.CutPrefix(line, key+" "); ok {
				return strings.TrimSpace(rest), true
			}
		}
		return "", false
	}
	if file == "cpu.max" { // both of its values
		return before
	}
	if keyed { // one entry of a list: "8:0 rbps=1"
		old, ok := entry(key)
		if !ok {
			old = absent(file)
		}
		return key + " " + old
	}
	for _, name := range []string{"default", "oom_kill_disable"} {
		if old, ok := entry(name); ok {
			return old
		}
	}
	return before // just a value
}

// absent is what sets an entry of a list to what it is when it is not there.
func absent(file string) string {
	switch file {
	case "io.max":
		return "rbps=max wbps=max riops=max wiops=max"
	case "io.bfq.weight", "io.weight":
		return "default"
	case "rdma.max":
		return "hca_handle=max hca_object=max"
	}
	return "0" // blkio.*, net_prio.ifpriomap
}
