package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Stats returns what containerd and its clients take for the metrics of a
// container: *stats.Metrics of containerd/cgroups/v3/cgroup1, or cgroup2's.
// What the group has no controller for stays zero, "no limit" is the largest
// number, but for v1's pids.
func (g *Group) Stats() (any, error) {
	if err := g.use(); err != nil {
		return nil, err
	}
	defer g.done()
	if len(g.dirs) == 0 {
		return nil, ErrDeleted
	}
	// Below a removed directory no file is found, as below one without
	// controllers.
	if d := g.dirs[len(g.dirs)-1]; !d.has("cgroup.procs") {
		return nil, fmt.Errorf("statistics of cgroup: %s: %w", d.absolute(), unix.ENOENT)
	}
	s := reader{g: g}
	if g.V2() {
		return s.v2(), s.result()
	}
	return s.v1(), s.result()
}

// reader reads the files of a group, and keeps the first error that is more
// than a missing file.
type reader struct {
	g   *Group
	err error
}

func (s *reader) result() error {
	if s.err != nil {
		return fmt.Errorf("statistics of cgroup: %w", s.err)
	}
	return nil
}

func (s *reader) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// text is what is in a file, nothing if there is none.
func (s *reader) text(controller, file string) string {
	d := s.g.dir(controller)
	if d == nil {
		return ""
	}
	text, err := d.read(file)
	// EOPNOTSUPP: pressure is not measured unless asked for at boot.
	if err != nil && !gone(err) && !errors.Is(err, unix.EOPNOTSUPP) {
		s.fail(err)
	}
	return text
}

// number is the only one in a file.
func (s *reader) number(controller, file string) uint64 {
	text := strings.TrimSpace(s.text(controller, file))
	if text == "" {
		return 0
	}
	n, err := parseNumber(text)
	if err != nil {
		s.fail(fmt.Errorf("%s: %w", file, err))
	}
	return n
}

// fields fills in what a file says in lines of name and number. Other names are
// of newer kernels.
func (s *reader) fields(controller, file string, into map[string]*uint64) {
	for line := range strings.Lines(s.text(controller, file)) {
		name, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		p, ok := into[name]
		if !ok {
			continue
		}
		n, err := parseNumber(text)
		if err != nil {
			s.fail(fmt.Errorf("%s: %w", file, err))
		}
		*p = n
	}
}

// parseNumber: max is no limit. v1 has counters that may be below zero for a
// moment.
func parseNumber(text string) (uint64, error) {
	if text == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && strings.HasPrefix(text, "-") {
		return 0, nil
	}
	return n, err
}

// rdmaEntry is a line of rdma.current or rdma.max.
type rdmaEntry struct {
	device           string
	handles, objects uint32
}

func (s *reader) rdma(file string) (list []rdmaEntry) {
	for line := range strings.Lines(s.text("rdma", file)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		e := rdmaEntry{device: f[0]}
		for _, pair := range f[1:] {
			name, text, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseUint(text, 10, 32)
			if text == "max" {
				n, err = math.MaxUint32, nil
			}
			if err != nil {
				continue
			}
			switch name {
			case "hca_handle":
				e.handles = uint32(n)
			case "hca_object":
				e.objects = uint32(n)
			}
		}
		list = append(list, e)
	}
	return list
}

// pageSizes are those of huge pages, as the names of hugetlb files have them.
var pageSizes = sync.OnceValue(func() (sizes []string) {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if size, ok := pageSize(e.Name()); ok {
			sizes = append(sizes, size)
		}
	}
	return sizes
})

func pageSize(name string) (string, bool) {
	text, ok := strings.CutPrefix(name, "hugepages-")
	text, kb := strings.CutSuffix(text, "kB")
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case !ok || !kb || err != nil:
		return "", false
	case n >= 1<<20:
		return utoa(n>>20) + "GB", true
	case n >= 1<<10:
		return utoa(n>>10) + "MB", true
	}
	return utoa(n) + "KB", true
}
