package harness

import (
	"bufio"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// World is everything of ours that can be left behind on the machine.
type World struct {
	things map[string]bool // each with its kind in front
	watch  []string
}

// Look takes stock; watch are directories where shims and containerd keep
// sockets, bundles and state.
func Look(watch ...string) World {
	w := World{things: map[string]bool{}, watch: watch}
	reap()
	for _, p := range strays() {
		w.things["process "+p] = true
	}
	for _, m := range mounts() {
		w.things["mount "+m] = true
	}
	for _, c := range cgroups() {
		w.things["cgroup "+c] = true
	}
	for _, dir := range append([]string{"/run/containerd"}, watch...) {
		for _, f := range files(dir, "") {
			w.things["file "+f] = true
		}
	}
	for _, f := range files("/run", Tag) {
		w.things["file "+f] = true
	}
	pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern")
	w.things["core_pattern "+string(pattern)] = true // the favourite of escapes
	return w
}

// Leaks is what is there now and was not there then, and what has gone that
// was there then, unless it is excused. Shims end a moment after containerd lets
// go of them, so it waits for that, but not for ever.
func (w World) Leaks(patience time.Duration, excused func(string) bool) []string {
	for pause, deadline := time.Millisecond, time.Now().Add(patience); ; pause = min(2*pause, 100*time.Millisecond) {
		diff := slices.DeleteFunc(w.diff(Look(w.watch...)), excused)
		if len(diff) == 0 || time.Now().After(deadline) {
			return diff
		}
		time.Sleep(pause)
	}
}

func (w World) diff(now World) []string {
	var diff []string
	for thing := range now.things {
		if !w.things[thing] {
			diff = append(diff, "new: "+thing)
		}
	}
	for thing := range w.things {
		if !now.things[thing] {
			diff = append(diff, "gone: "+thing)
		}
	}
	slices.Sort(diff)
	return diff
}

// Mounts is this namespace's table, whole lines: a mount that was replaced by
// an equal one has another number.
func mounts() []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// Hierarchies are the mount points of the cgroup file systems, v1 and v2.
func Hierarchies() []string {
	found := map[string]bool{}
	for _, line := range mounts() {
		before, after, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(after, "cgroup") {
			found[strings.Fields(before)[4]] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Cgroups are those with the Tag in the path of a parent or as the start of their
// name, parents first. The one that is just the Tag is made by the first runtime
// that needs it, and removed by Main.
func cgroups() []string {
	var found []string
	for _, root := range Hierarchies() {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() && strings.Contains(path, Tag) && e.Name() != Tag {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

func removeCgroups() {
	for _, dir := range slices.Backward(cgroups()) {
		_ = os.Remove(dir)
	}
	for _, root := range Hierarchies() {
		_ = os.Remove(filepath.Join(root, Tag))
	}
}

// Permanent directories are made on first use and stay, as containerd's do.
var permanent = []string{"containerd", "fifo", "runc", "myshim", "s", criNamespace}

// Files lists what is below dir, with name in its path; the content of a
// bundle's root file system is the container's own affair.
func files(dir, name string) []string {
	var found []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil
		case e.IsDir() && (e.Name() == "rootfs" || path == "/run/containerd" && dir == "/run"):
			return fs.SkipDir
		case e.IsDir() && (path == dir || e.Name() == Tag || slices.Contains(permanent, e.Name())):
			return nil
		case strings.Contains(path, name):
			found = append(found, fmt.Sprintf("%s (%v)", path, e.Type()))
		}
		return nil
	})
	return found
}

// MountPoints below dir, in this namespace.
func MountPoints(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found, nil
}
