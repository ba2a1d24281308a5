package cgroup

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/spec"
)

// Location says where a group is. It is kept in the container's state, so that
// a later process finds the group with Open.
type Location struct {
	Dirs []Dir `json:"dirs"`
	// Unit and Slice are the group's systemd unit, where systemd made it, and
	// the slice it is in.
	Unit  string `json:"unit,omitempty"`
	Slice string `json:"slice,omitempty"`
}

// Dir is the place of a group in one hierarchy.
type Dir struct {
	// Controllers of the hierarchy, or name=…; none for cgroup v2.
	Controllers []string `json:"controllers,omitempty"`
	Mount       string   `json:"mount"`
	Path        string   `json:"path"` // below Mount, clean, with a slash first
}

func (d Dir) v2() bool         { return len(d.Controllers) == 0 }
func (d Dir) absolute() string { return d.Mount + d.Path }

// V2 says whether the machine has cgroup v2 only. It hasn't on a hybrid one,
// where cgroup v2 is mounted too, but has no controllers.
func (l Location) V2() bool { return len(l.Dirs) == 1 && l.Dirs[0].v2() }

// Resolve finds out where linux.cgroupsPath leads to, as runc does:
//
//   - absolute: below the mount point of each hierarchy;
//   - relative: v1: below our own group; v2: below the parent of it, because a
//     group with processes cannot have children with controllers;
//   - empty: the container's id, as a relative path;
//   - slice:prefix:name, with systemd: a scope, see resolveUnit. Without, a path of
//     the form "….slice:…:…" is taken for one nevertheless, since CRI has no
//     way to set the option for a runtime that is not runc.
//
// Where runc makes something else out of "..", it is an error here.
func Resolve(cgroupsPath, id string, systemd bool) (Location, error) {
	if slice, _, ok := strings.Cut(cgroupsPath, ":"); systemd || ok && strings.HasSuffix(slice, ".slice") && strings.Count(cgroupsPath, ":") == 2 {
		return resolveUnit(cgroupsPath, id)
	}
	field := "linux.cgroupsPath"
	if cgroupsPath == "" {
		field, cgroupsPath = "container id", id
	}
	name, err := checkPath(field, cgroupsPath)
	if err != nil {
		return Location{}, err
	}
	all, err := hierarchies(!path.IsAbs(name))
	if err != nil {
		return Location{}, err
	}
	return locate(name, all), nil
}

func checkPath(field, name string) (string, error) {
	switch {
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", spec.Invalid(field, "%q must not contain \"..\"", name)
	case strings.ContainsAny(name, "\x00\n"):
		return "", spec.Invalid(field, "%q must not contain line breaks or zero bytes", name)
	case path.Join("/", name) == "/":
		return "", spec.Invalid(field, "%q is the root of all cgroups", name)
	}
	return path.Clean(name), nil
}

// hierarchy is one that is mounted here.
type hierarchy struct {
	controllers []string
	mount       string
	root        string // the directory of the hierarchy that is mounted
	own         string // our own group
}

// locate is pure.
func locate(name string, all []hierarchy) Location {
	var l Location
	for _, h := range all {
		d := Dir{Controllers: h.controllers, Mount: h.mount, Path: path.Join("/", name)}
		switch {
		case path.IsAbs(name):
		case len(all) == 1 && d.v2():
			d.Path = path.Join("/", path.Dir(h.own), name)
		case !d.v2(): // runc puts a hybrid's cgroup v2 below the mount point
			own := h.own
			if rest, ok := strings.CutPrefix(own, h.root); ok && h.root != "/" {
				own = rest
			}
			d.Path = path.Join("/", own, name)
		}
		l.Dirs = append(l.Dirs, d)
	}
	return l
}

const unified = "/sys/fs/cgroup"

// v1Controllers are the ones runc knows, in the order in which it sets them.
var v1Controllers = []string{
	"cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls",
	"net_prio", "perf_event", "freezer", "rdma", "name=systemd", "misc",
}

// hierarchies lists those that a container gets a group in. cgroup v2 is the
// only one, or the first one.
//
// mountinfo is read only when it must be: on a machine with many containers it
// takes the kernel milliseconds to write it.
func hierarchies(relative bool) ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := parseProcCgroup(string(text))
	if is, _ := mountedAs(unified, unix.CGROUP2_SUPER_MAGIC); is {
		return []hierarchy{{mount: unified, root: "/", own: own[""]}}, nil
	}
	var all []hierarchy
	if is, writable := mountedAs(unified+"/unified", unix.CGROUP2_SUPER_MAGIC); is && writable {
		all = append(all, hierarchy{mount: unified + "/unified", root: "/", own: own[""]})
	}
	seen := make(map[string]bool)
	for _, c := range v1Controllers {
		for names, group := range own {
			together := strings.Split(names, ",")
			if seen[names] || !slices.Contains(together, c) {
				continue
			}
			seen[names] = true
			h := hierarchy{controllers: together, own: group, root: "/"}
			h.mount = unified + "/" + strings.TrimPrefix(names, "name=")
			is, writable := mountedAs(h.mount, unix.CGROUP_SUPER_MAGIC)
			if !is || relative && group != "/" {
				if h.mount, h.root, err = findMount(c); err != nil {
					return nil, err
				}
				is, writable = mountedAs(h.mount, unix.CGROUP_SUPER_MAGIC)
			}
			// These only say where the container is: as with runc, one that
			// cannot be used is done without.
			if is && (writable || c != "name=systemd" && c != "misc") {
				all = append(all, h)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	return all, nil
}

func mountedAs(dir string, magic int64) (is, writable bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false, false
	}
	return fs.Type == magic, fs.Flags&unix.ST_RDONLY == 0
}

// parseProcCgroup reads /proc/PID/cgroup: the group in each hierarchy.
func parseProcCgroup(text string) map[string]string {
	groups := make(map[string]string)
	for line := range strings.Lines(text) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 {
			groups[f[1]] = f[2]
		}
	}
	return groups
}

// findMount returns where a v1 controller is mounted; nothing if it is not.
func findMount(controller string) (mount, root string, err error) {
	found, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		ok := m.FSType == "cgroup" && slices.Contains(strings.Split(m.VFSOptions, ","), controller)
		return !ok, ok
	})
	if err != nil || len(found) == 0 {
		return "", "", err
	}
	return found[0].Mountpoint, found[0].Root, nil
}
