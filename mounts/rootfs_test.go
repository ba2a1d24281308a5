package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// buildRootOf makes a root of mounts in the calling thread's mount namespace.
func buildRootOf(rootfs string, list ...RootMount) error {
	s := container()
	s.Mounts = nil
	p, err := Compile(Config{Spec: s, Bundle: filepath.Dir(rootfs), Rootfs: rootfs, RootMounts: list})
	if err != nil {
		return err
	}
	root, err := p.Build(Builder{})
	if err != nil {
		return err
	}
	return root.Close()
}

// Options of an overlay that are longer than a page.
func TestManyLayers(t *testing.T) {
	host, rootfs := image(t)
	var layers []string
	for i := range 150 {
		dir := filepath.Join(host, "layers", strings.Repeat("x", 40), fmt.Sprint(i), "fs")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, dir)
	}
	upper := filepath.Join(host, "upper")
	overlay := RootMount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + strings.Join(layers, ":"), "upperdir=" + upper + "/fs", "workdir=" + upper + "/work",
	}}
	if len(overlay.Options[0]) < 2*os.Getpagesize() {
		t.Fatal("the options are too short to show anything")
	}
	apart(t, func() error {
		err := errors.Join(os.Mkdir(upper, 0o755), unix.Mount("tmpfs", upper, "tmpfs", 0, ""), os.Mkdir(upper+"/fs", 0o755), os.Mkdir(upper+"/work", 0o755))
		if err != nil {
			return err
		}
		if unix.Mount("overlay", rootfs, "overlay", 0, strings.Join(overlay.Options, ",")) == nil {
			return errors.New("mount(2) takes it as it is")
		}
		if err := buildRootOf(rootfs, overlay); err != nil {
			return err
		}
		for i := range layers {
			if _, err := os.Stat(filepath.Join(rootfs, fmt.Sprint(i))); err != nil {
				return err
			}
		}
		return nil
	})
}

// The same in a mount of the container, where from 256 bytes on an option is too
// long for fsconfig(2).
func TestManyLayersInside(t *testing.T) {
	for _, layers := range []int{2, 8, 150} {
		host, rootfs := image(t, "proc/")
		var dirs []string
		for i := range layers {
			dir := filepath.Join(host, "layers", strings.Repeat("x", 40), fmt.Sprint(i))
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			dirs = append(dirs, dir)
		}
		overlay := mounting(specs.Mount{Destination: "/x", Type: "overlay", Source: "overlay", Options: []string{"rnoexec", "nodev", "unbindable", "lowerdir=" + strings.Join(dirs, ":")}})
		apart(t, func() error {
			if err := tryBuild(container(overlay), rootfs); err != nil {
				return err
			}
			for i := range layers {
				if _, err := os.Stat(filepath.Join(rootfs, "x", fmt.Sprint(i))); err != nil {
					return err
				}
			}
			text, err := os.ReadFile("/proc/thread-self/mountinfo")
			i := strings.Index(string(text), rootfs+"/x ")
			line, _, _ := strings.Cut(string(text)[max(i, 0):], "\n")
			for _, want := range []string{"noexec", "nodev", "unbindable"} {
				if !strings.Contains(line, want) {
					t.Errorf("%d layers: no %s in %.100q", layers, want, line)
				}
			}
			return err
		})
		userns := func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}
		_, err := Compile(Config{Spec: container(overlay, userns), Rootfs: rootfs})
		if long := layers > 2; long != (err != nil) || long && !strings.Contains(err.Error(), "mounts[1].options: one is longer") {
			t.Errorf("%d layers in a user namespace: %v", layers, err)
		}
	}
}

// Several mounts on each other, read-only ones, and such as are below the root,
// where the image has a link.
func TestStackedRoot(t *testing.T) {
	host, rootfs := image(t, "host:first/a", "host:second/dir -> HOST/outside", "host:outside/", "host:third/c")
	apart(t, func() error {
		err := buildRootOf(rootfs,
			RootMount{Type: "bind", Source: host + "/first", Options: []string{"rbind", "ro"}},
			RootMount{Type: "bind", Source: host + "/second", Options: []string{"rbind", "rw"}},
			RootMount{Type: "bind", Source: host + "/third", Target: "/dir", Options: []string{"bind", "ro"}},
		)
		if err != nil {
			return err
		}
		if got := inventory(host + "/outside"); strings.Contains(got, "c") {
			return fmt.Errorf("outside: %s", got)
		}
		at := filepath.Join(rootfs, host, "outside")
		if _, err := os.Stat(at + "/c"); err != nil {
			return err
		}
		if err := os.WriteFile(at+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("the third mount is writable: %w", err)
		}
		return os.WriteFile(rootfs+"/new", nil, 0o644)
	})
}
