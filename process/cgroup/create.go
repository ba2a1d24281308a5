package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Create makes the group's directory in every hierarchy; CreateScope is for a
// Location that has a Unit. r may be nil; it says what has to be there before
// the first process: the CPUs and memory nodes of a v1 cpuset (where none are
// given, those of the parent), and realtime bandwidth. Set does the rest.
//
// A group that exists is taken only if it has no process and is not frozen.
// When Create fails, it leaves nothing behind that was not there.
func Create(l Location, r *specs.LinuxResources) (*Group, error) {
	if l.Unit != "" {
		return nil, fmt.Errorf("create cgroup: unit %s must be made by systemd", l.Unit)
	}
	g := newGroup(l)
	var made []string
	err := g.create(&made)
	if err == nil {
		err = g.prepare(r)
	}
	if err == nil {
		return g, nil
	}
	g.Close()
	for _, dir := range slices.Backward(made) {
		if e := unix.Rmdir(dir); e != nil {
			err = errors.Join(err, &os.PathError{Op: "rmdir", Path: dir, Err: e})
		}
	}
	return nil, err
}

func (g *Group) create(made *[]string) error {
	for _, where := range g.Dirs {
		d, fresh, err := create(where, g.V2(), made)
		if err == nil {
			g.dirs = append(g.dirs, d)
			if !fresh {
				err = checkUnused(d)
			}
		}
		if err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
	}
	return nil
}

// prepare makes a new group fit for its first process.
func (g *Group) prepare(r *specs.LinuxResources) error {
	if g.V2() {
		return allowThreads(g.dirs[0], r)
	}
	f, err := g.facts(false)
	if err != nil {
		return err
	}
	writes, err := planEarly(r, f)
	if err != nil {
		return err
	}
	write := func() error { _, err := g.apply(writes); return err }
	if d := g.dir("cpuset"); d != nil {
		return prepareCpuset(*d, write)
	}
	return write()
}

// create makes the directory in one hierarchy, with those above it, and opens
// it. fresh says that it did not exist.
func create(where Dir, v2 bool, made *[]string) (d dir, fresh bool, err error) {
	root, err := openRoot(where)
	if err != nil {
		return dir{}, false, err
	}
	defer unix.Close(root.fd)
	if v2 {
		err = enableControllers(root, path.Dir(where.Path), made)
	}
	if err == nil {
		fresh, err = mkdirAll(root, where.Path, made)
	}
	if err != nil {
		return dir{}, false, err
	}
	d, err = openBelow(root, where)
	return d, fresh, err
}

// mkdirAll makes a directory below the root of a hierarchy; mostly its parent
// is there.
func mkdirAll(root dir, p string, made *[]string) (fresh bool, err error) {
	err = unix.Mkdirat(root.fd, p[1:], 0o755)
	if err == unix.ENOENT && path.Dir(p) != "/" {
		if _, err := mkdirAll(root, path.Dir(p), made); err != nil {
			return false, err
		}
		err = unix.Mkdirat(root.fd, p[1:], 0o755)
	}
	switch err {
	case nil:
		*made = append(*made, root.Mount+p)
		return true, nil
	case unix.EEXIST:
		return false, nil
	}
	return false, &os.PathError{Op: "mkdir", Path: root.Mount + p, Err: err}
}

func checkUnused(d dir) error {
	pids, err := d.pids()
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("%s: container's cgroup is not empty: it has processes %v", d.absolute(), pids)
	}
	if frozen, err := d.frozen(); err != nil || !frozen {
		return err
	}
	return fmt.Errorf("%s: container's cgroup is frozen", d.absolute())
}

// enableControllers makes the directories down to the parent of a v2 group, and
// lets each hand on all controllers that the root has.
//
// A group has only what its parent has, so the parent's file tells about all
// of them: normally nothing is left to do.
func enableControllers(root dir, parent string, made *[]string) error {
	text, err := root.read("cgroup.controllers")
	if err != nil {
		return err
	}
	all := strings.Fields(text)
	missing := func(p string) []string {
		text, err := root.read(subtreeControl(p))
		if err != nil {
			return all
		}
		on := strings.Fields(text)
		return slices.DeleteFunc(slices.Clone(all), func(c string) bool { return slices.Contains(on, c) })
	}
	if len(missing(parent)) == 0 {
		return nil
	}
	for i, c := range parent + "/" {
		if c != '/' {
			continue
		}
		p := parent[:i]
		if p != "" {
			if _, err := mkdirAll(root, p, made); err != nil {
				return err
			}
		}
		// What cannot be had (a group with processes cannot pass on memory)
		// is an error only once a limit asks for it.
		if off := missing(p); len(off) > 0 && root.write(subtreeControl(p), "+"+strings.Join(off, " +")) != nil {
			for _, c := range off {
				_ = root.write(subtreeControl(p), "+"+c)
			}
		}
		if parent == "/" {
			break
		}
	}
	return nil
}

func subtreeControl(p string) string {
	return path.Join("/", p, "cgroup.subtree_control")[1:]
}

// allowThreads deals with a v2 group whose parent has processes of a threaded
// subtree: it can only be threaded, too, with the controllers that can be.
func allowThreads(d dir, r *specs.LinuxResources) error {
	text, err := d.read("cgroup.type")
	if err != nil {
		return err
	}
	switch kind := strings.TrimSpace(text); {
	case kind == "domain":
		return nil
	case needsDomain(r):
		return fmt.Errorf("cgroup %s is %q: limits of memory, cpu, io or hugetlb are not possible there", d.absolute(), kind)
	case kind == "domain invalid":
		return d.write("cgroup.type", "threaded")
	}
	return nil
}

// needsDomain says whether limits are asked for that threads cannot have each
// for themselves.
func needsDomain(r *specs.LinuxResources) bool {
	domain := []string{"memory", "io", "cpu", "hugetlb"}
	writes, _ := Plan(r, Facts{V2: true, Controllers: domain, Read: func(_, _ string) (string, error) { return "", os.ErrNotExist }})
	return slices.ContainsFunc(writes, func(w Write) bool { return slices.Contains(domain, w.Controller) })
}

// prepareCpuset gives a v1 cpuset the CPUs and memory nodes of its parent where
// it gets none of its own, which write does. Nothing can join before it has some.
func prepareCpuset(d dir, write func() error) error {
	root, err := openRoot(d.Dir)
	if err != nil {
		return err
	}
	defer unix.Close(root.fd)
	parent, err := cpusetOf(root, path.Dir(d.Path))
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	own, err := readCpuset(root, d.Path)
	if err != nil {
		return err
	}
	_, err = fillCpuset(root, d.Path, own, parent)
	return err
}

var cpusetFiles = [2]string{"cpuset.cpus", "cpuset.mems"}

// cpusetOf returns what a group has, after giving it what it lacks.
func cpusetOf(root dir, p string) ([2]string, error) {
	own, err := readCpuset(root, p)
	if err != nil || p == "/" || own[0] != "" && own[1] != "" {
		return own, err
	}
	parent, err := cpusetOf(root, path.Dir(p))
	if err != nil {
		return own, err
	}
	return fillCpuset(root, p, own, parent)
}

func readCpuset(root dir, p string) (values [2]string, err error) {
	for i, file := range cpusetFiles {
		text, err := root.read(path.Join(p, file)[1:])
		if err != nil {
			return values, err
		}
		values[i] = strings.TrimSpace(text)
	}
	return values, nil
}

func fillCpuset(root dir, p string, own, parent [2]string) ([2]string, error) {
	for i, file := range cpusetFiles {
		if own[i] != "" {
			continue
		}
		if err := root.write(path.Join(p, file)[1:], parent[i]); err != nil {
			return own, err
		}
		own[i] = parent[i]
	}
	return own, nil
}
