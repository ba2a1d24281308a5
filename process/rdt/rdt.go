// Package rdt answers: in which group of Intel's Resource Director Technology
// does a container run?
//
// Groups are directories of the resctrl file system (Linux,
// filesystems/resctrl.rst). What is to be done with them is config-linux.md,
// "IntelRdt", sentence by sentence.
package rdt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// Group is where a container's processes are. It is kept with the container, so
// that what was made is found again.
type Group struct {
	Dir     string `json:"dir"`               // of the class of service
	Own     bool   `json:"own,omitempty"`     // it was made for this container only
	Monitor string `json:"monitor,omitempty"` // directory of the monitoring group, if there is one
}

// plan is what to do for a container.
type plan struct {
	Group
	mayExist bool // the directory; else it is this container's
	mayMake  bool
	expect   []string // lines that one which exists has
	schemata []string // lines that are written to it in any case
}

func compile(root, id string, r *specs.LinuxIntelRdt) plan {
	p := plan{Group: Group{Dir: filepath.Join(root, id)}, mayMake: true, schemata: r.Schemata}
	for _, line := range []string{r.L3CacheSchema, r.MemBwSchema} {
		if line != "" {
			p.expect = append(p.expect, line)
		}
	}
	if r.ClosID != "" {
		p.Dir = filepath.Join(root, r.ClosID) // "/" is the root
		p.mayExist, p.mayMake = true, len(p.expect)+len(p.schemata) > 0
	}
	if r.EnableMonitoring {
		p.Monitor = filepath.Join(p.Dir, "mon_groups", id)
	}
	return p
}

// Root is where resctrl is mounted.
func Root() (string, error) {
	found, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		is := m.FSType == "resctrl"
		return !is, is
	})
	if err != nil {
		return "", fmt.Errorf("linux.intelRdt: %w", err)
	}
	if len(found) == 0 {
		return "", spec.Invalid("linux.intelRdt", "resctrl is not mounted")
	}
	return found[0].Mountpoint, nil
}

// Create makes or finds the group of a container.
func Create(root, id string, r *specs.LinuxIntelRdt) (_ *Group, err error) {
	p := compile(root, id, r)
	made, err := p.mkdir()
	if err != nil {
		return nil, fmt.Errorf("linux.intelRdt.closID: %w", err)
	}
	p.Own = made && !p.mayExist
	monitor := p.Monitor
	p.Monitor = "" // until it is there
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Delete())
		}
	}()
	lines := p.schemata
	if made {
		lines = append(slices.Clone(p.expect), lines...)
	} else if err := p.compare(); err != nil {
		return nil, err
	}
	for _, line := range lines {
		if err := write(filepath.Join(p.Dir, "schemata"), line+"\n"); err != nil {
			return nil, fmt.Errorf("linux.intelRdt.schemata: %q: %w", line, err)
		}
	}
	if monitor != "" {
		if err := os.Mkdir(monitor, 0o755); err != nil {
			return nil, fmt.Errorf("linux.intelRdt.enableMonitoring: %w", err)
		}
		p.Monitor = monitor
	}
	return &p.Group, nil
}

func (p *plan) mkdir() (made bool, err error) {
	if !p.mayMake {
		_, err := os.Stat(p.Dir)
		return false, err
	}
	err = os.Mkdir(p.Dir, 0o755)
	if errors.Is(err, fs.ErrExist) && p.mayExist {
		return false, nil
	}
	return err == nil, err
}

// compare reads what a group that exists has. What the spec says must be so there;
// what it does not name may be anything.
func (p *plan) compare() error {
	if len(p.expect) == 0 {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(p.Dir, "schemata"))
	if err != nil {
		return fmt.Errorf("linux.intelRdt.closID: %w", err)
	}
	has := make(map[domain]uint64)
	for line := range strings.Lines(string(text)) {
		_ = parseSchema(line, has) // "L3:uninitialized" has none, see pseudo-locking
	}
	for _, line := range p.expect {
		want := make(map[domain]uint64)
		if err := parseSchema(line, want); err != nil {
			return spec.Invalid("linux.intelRdt", "schema %q: %w", line, err)
		}
		for d, value := range want {
			if got, ok := has[d]; !ok || got != value {
				return fmt.Errorf("linux.intelRdt: %s has not the schema %q but %q", p.Dir, line, text)
			}
		}
	}
	return nil
}

// domain is what a schema has a value for: one cache, by its id, of a resource.
type domain struct {
	resource string
	id       uint64
}

// parseSchema reads a line like "L3:0=7f;1=1f". The kernel fills up numbers with
// spaces, and takes zeros in front of them. All are read as hexadecimal ones, which
// those of MB are not: they are only compared.
func parseSchema(line string, into map[domain]uint64) error {
	resource, rest, _ := strings.Cut(line, ":")
	for part := range strings.SplitSeq(rest, ";") {
		id, value, _ := strings.Cut(part, "=")
		n, err := strconv.ParseUint(strings.TrimSpace(id), 16, 64)
		if err != nil {
			return err
		}
		if into[domain{strings.TrimSpace(resource), n}], err = strconv.ParseUint(strings.TrimSpace(value), 16, 64); err != nil {
			return err
		}
	}
	return nil
}

// Join moves a process, with one thread, into the group. A nil group is that of
// the shim.
func (g *Group) Join(pid int) error {
	if g == nil {
		return nil
	}
	for _, dir := range []string{g.Dir, g.Monitor} {
		if dir == "" {
			continue
		}
		if err := write(filepath.Join(dir, "tasks"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
	}
	return nil
}

// Delete removes what was made for the container.
func (g *Group) Delete() error {
	if g == nil {
		return nil
	}
	var dirs []string
	if g.Monitor != "" {
		dirs = append(dirs, g.Monitor)
	}
	if g.Own {
		dirs = append(dirs, g.Dir)
	}
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
	}
	return nil
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
