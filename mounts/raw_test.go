package mounts

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestResolveRoot(t *testing.T) {
	for _, test := range []struct {
		name string
		in   []RootMount
		want string // lines, or the error
	}{
		{"plain", []RootMount{{Type: "bind", Source: "/a"}, {Type: "tmpfs", Source: "t", Target: "/x"}}, "rootfs[0]   bind /a -> /\nrootfs[1]   tmpfs t -> /x"},
		{"layers", []RootMount{
			{Type: "erofs", Source: "/1.erofs", Options: []string{"ro", "loop"}},
			{Type: "erofs", Source: "/2.erofs", Options: []string{"ro", "loop"}},
			{Type: "format/mkdir/overlay", Source: "o", Options: []string{
				"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "lowerdir={{ overlay 1 0 }}", "upperdir={{mount 0}}/upper", "x={{ source 1 }}",
			}},
		}, "rootfs[0]   erofs /1.erofs -> /r/0  ro,loop\nrootfs[1]   erofs /2.erofs -> /r/1  ro,loop\nrootfs[2]   overlay o -> /  lowerdir=/r/1:/r/0,upperdir=/r/0/upper,x=/2.erofs"},
		{"mkdir alone", []RootMount{{Type: "mkdir/bind", Source: "/a", Options: []string{"rbind", "X-containerd.mkdir.path=/a"}}}, "rootfs[0]   bind /a -> /  rbind"},
		{"beyond", []RootMount{{Type: "format/bind", Source: "{{ mount 0 }}"}}, "rootfs[0]: mount 0: there are only 0 mounts before"},
		{"unknown word", []RootMount{{Type: "a"}, {Type: "format/bind", Source: "{{ mounts 0 }}"}}, "rootfs[1]: there is no mounts of 1 mounts"},
		{"not understood", []RootMount{{Type: "a"}, {Type: "format/bind", Source: "{{ .Env }}"}}, `rootfs[1]: "{{ .Env }}" is not understood`},
		{"mkfs", []RootMount{{Type: "mkfs/ext4", Source: "/a"}}, "rootfs[0]: type mkfs/ext4: mkfs is for containerd's mount manager, not for a runtime"},
		{"internal", []RootMount{{Type: "erofs", Options: []string{"X-containerd.dmverity=/m"}}}, "rootfs[0]: option X-containerd.dmverity=/m: it is for containerd's mount manager, not for a runtime"},
		{"mode", []RootMount{{Type: "mkdir/bind", Options: []string{"X-containerd.mkdir.path=/a:4755"}}}, "rootfs[0]: option X-containerd.mkdir.path=/a:4755: it is not an absolute path with a mode of at most 0777"},
		{"owner", []RootMount{{Type: "mkdir/bind", Options: []string{"X-containerd.mkdir.path=/a:755:3"}}}, "rootfs[0]: option X-containerd.mkdir.path=/a:755:3: it is not path[:mode[:uid:gid]]"},
	} {
		list, err := resolveRoot(test.in, "/r")
		var lines []string
		for i, m := range list {
			lines = append(lines, m.line(i).String())
		}
		got := strings.Join(lines, "\n")
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s:\n%s\nwant:\n%s", test.name, got, test.want)
		}
	}
}

// diskImage makes a file with a file system that has the file "layer" in it.
func diskImage(t testing.TB, kind, text string) string {
	t.Helper()
	dir := t.TempDir()
	tree, file := filepath.Join(dir, "tree"), filepath.Join(dir, kind)
	if err := errors.Join(os.MkdirAll(tree+"/etc", 0o755), os.WriteFile(tree+"/layer", []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	program, args := "mkfs.erofs", []string{file, tree}
	if kind == "ext4" {
		program, args = "mke2fs", []string{"-q", "-t", "ext4", "-d", tree, file, "8m"}
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("*** %s NOT TESTED: %v ***", kind, err)
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	return file
}

// loops are the loop devices that have a file below a directory.
func loops(dir string) string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var found []string
	for _, f := range files {
		if text, _ := os.ReadFile(f); strings.HasPrefix(string(text), dir) {
			found = append(found, f)
		}
	}
	return strings.Join(found, " ")
}

// A root of images as containerd's erofs snapshotter describes it: read-only
// layers, and an overlay of which the upper directory is in an image too.
func TestRootOfImages(t *testing.T) {
	for _, lower := range []string{"erofs", "ext4"} {
		first, second, upper := diskImage(t, lower, "first"), diskImage(t, lower, "second"), diskImage(t, "ext4", "upper")
		_, rootfs := image(t)
		p, err := Compile(Config{Spec: container(), Bundle: filepath.Dir(rootfs), Rootfs: rootfs, RootMounts: []RootMount{
			{Type: lower, Source: first, Options: []string{"ro", "loop"}},
			{Type: lower, Source: second, Options: []string{"ro", "loop"}},
			{Type: "ext4", Source: upper, Options: []string{"loop"}},
			{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
				"X-containerd.mkdir.path={{ mount 2 }}/u:0755", "X-containerd.mkdir.path={{ mount 2 }}/w:0700",
				"lowerdir={{ overlay 1 0 }}", "upperdir={{ mount 2 }}/u", "workdir={{ mount 2 }}/w",
			}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		apart(t, func() error {
			proc, err := newMount(p.Supers[0])
			if err != nil {
				return err
			}
			defer proc.Close()
			root, err := p.Build(Builder{Supers: []*os.File{proc}})
			if err != nil {
				return err
			}
			defer root.Close()
			if loops(filepath.Dir(upper)) == "" {
				return errors.New("there is no loop device")
			}
			if !contains(rootfs+"/layer", "second") {
				return errors.New("the upper layer is not in front")
			}
			return os.WriteFile(rootfs+"/written", nil, 0o644)
		})
		for _, file := range []string{first, second, upper} {
			if left := loops(filepath.Dir(file)); left != "" && !gone(func() bool { return loops(filepath.Dir(file)) == "" }) {
				t.Errorf("left behind: %s", left)
			}
		}
	}
}

// gone waits for what the kernel does when the thread with a mount namespace has
// ended.
func gone(is func() bool) bool {
	for range 200 {
		if is() {
			return true
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 10_000_000}, nil)
	}
	return false
}

// A directory to be made is made inside of the image that it is in.
func TestNewDirectoryInAnImage(t *testing.T) {
	host, _ := image(t, "host:stage/0/link -> HOST/outside", "host:outside/")
	stage := host + "/stage"
	for path, want := range map[string]string{
		stage + "/0/a/b": stage + "/0/a/b", stage + "/0/link/c": stage + "/0" + host + "/outside/c", host + "/outside/d": host + "/outside/d",
	} {
		if err := (newDirectory{path: path, mode: 0o751}).make(stage); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if info, err := os.Stat(want); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", want, err)
		}
	}
	if got := inventory(host + "/outside"); got != " d---------\n/d d---------" {
		t.Errorf("outside:%s", got)
	}
}
