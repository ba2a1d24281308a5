package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
