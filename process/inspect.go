package process

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/plan"
)

// Inspection is what can be seen of a container from the host.
type Inspection struct {
	ID         string           `json:"id"`
	Namespace  string           `json:"namespace"` // of containerd
	Bundle     string           `json:"bundle"`
	PID        int              `json:"pid"`
	Namespaces []NamespaceState `json:"namespaces,omitempty"` // none if it is not running
}

// NamespaceState is a Linux namespace of a container (namespaces(7)).
type NamespaceState struct {
	Type      string   `json:"type"`
	Inode     uint64   `json:"inode"`
	Host      bool     `json:"host"`                 // it is that of this process
	Shared    []string `json:"sharedWith,omitempty"` // IDs of other containers in it
	Processes []int    `json:"processes,omitempty"`  // pids; not listed for the host's
}

// MountState is a mount that a container sees.
type MountState struct {
	Dest    string `json:"destination"`
	Type    string `json:"type"`
	Source  string `json:"source"` // of the file system, with what is mounted of it
	Options string `json:"options"`
	// Origin is the field of the spec that asked for it; "rootfs", "default",
	// "host" for what came from there by propagation, "container" for what was
	// mounted inside.
	Origin string `json:"origin"`
}

// Inspect lists the containers of this runtime whose bundles are below the state
// directory of a containerd. namespace restricts it to one of containerd's, if
// it is not empty.
func Inspect(state, namespace string) ([]Inspection, error) {
	if namespace == "" {
		namespace = "*"
	}
	paths, err := filepath.Glob(filepath.Join(state, "io.containerd.runtime.v2.task", namespace, "*", recordName))
	if err != nil {
		return nil, err
	}
	var list []Inspection
	for _, path := range paths {
		r, err := readRecord(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, io.EOF) {
			continue // it is being deleted, or created
		}
		if err != nil {
			return nil, err
		}
		i := Inspection{ID: r.ID, Namespace: r.Namespace, Bundle: filepath.Dir(path), PID: r.Init.PID}
		if r.Exit == nil && r.Init.PID != 0 {
			i.Namespaces = namespacesOf(r.Init.PID)
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Inspection) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.ID, b.ID))
	})
	findSharers(list)
	return list, findProcesses(list)
}

func namespacesOf(pid int) []NamespaceState {
	var list []NamespaceState
	for _, kind := range plan.Namespaces() {
		name := namespaceFile(string(kind))
		inode, ok := namespaceInode(strconv.Itoa(pid), name)
		if !ok {
			continue
		}
		own, _ := namespaceInode("self", name)
		list = append(list, NamespaceState{Type: string(kind), Inode: inode, Host: inode == own})
	}
	return list
}

func findSharers(list []Inspection) {
	users := map[uint64][]string{}
	for _, c := range list {
		for _, ns := range c.Namespaces {
			users[ns.Inode] = append(users[ns.Inode], c.ID)
		}
	}
	for _, c := range list {
		for i := range c.Namespaces {
			ns := &c.Namespaces[i]
			if !ns.Host {
				ns.Shared = slices.DeleteFunc(slices.Clone(users[ns.Inode]), func(id string) bool { return id == c.ID })
			}
		}
	}
}

// findProcesses looks at all processes of the host, once.
func findProcesses(list []Inspection) error {
	byInode := map[uint64][]*NamespaceState{}
	for _, c := range list {
		for i := range c.Namespaces {
			if ns := &c.Namespaces[i]; !ns.Host {
				byInode[ns.Inode] = append(byInode[ns.Inode], ns)
			}
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		for _, kind := range plan.Namespaces() {
			inode, ok := namespaceInode(entry.Name(), namespaceFile(string(kind)))
			if !ok {
				break // it has ended
			}
			for _, ns := range byInode[inode] {
				ns.Processes = append(ns.Processes, pid)
			}
		}
	}
	return nil
}

// Mounts is the table of mounts that the container sees, with where each of them
// comes from.
func (i *Inspection) Mounts() ([]MountState, error) {
	table, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", i.PID))
	if err != nil {
		return nil, fmt.Errorf("mounts of container %s: %w", i.ID, err)
	}
	defer table.Close()
	infos, err := mountinfo.GetMountsFromReader(table, nil)
	if err != nil {
		return nil, fmt.Errorf("mounts of container %s: %w", i.ID, err)
	}
	p, err := Plan(i.Bundle)
	if err != nil {
		return nil, err
	}
	lines := p.Mounts.Lines()
	var list []MountState
	for _, m := range infos {
		list = append(list, MountState{
			Dest: m.Mountpoint, Type: m.FSType, Source: path.Join(m.Source, m.Root), Options: m.Options, Origin: origin(m, lines),
		})
	}
	return list, nil
}

// origin says which line of the plan a mount comes from: the last one at its
// place, or, for what is below a recursive bind mount, the one of that.
func origin(m *mountinfo.Info, lines []mounts.Line) string {
	if m.Mountpoint == "/" {
		return "rootfs"
	}
	if m.Mountpoint == "/dev/console" && m.FSType == "devpts" {
		return "process.terminal"
	}
	for _, l := range slices.Backward(lines) {
		if l.Dest == m.Mountpoint && l.Action != "directory" && l.Action != "link" {
			return l.Field
		}
	}
	for _, l := range slices.Backward(lines) {
		if l.Action == "bind" && l.Dest != "/" && strings.HasPrefix(m.Mountpoint, l.Dest+"/") {
			if strings.Contains(m.Optional, "master:") {
				return "host, below " + l.Field
			}
			return "below " + l.Field
		}
	}
	if strings.Contains(m.Optional, "master:") {
		return "host"
	}
	return "container"
}
