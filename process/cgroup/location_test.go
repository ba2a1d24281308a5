package cgroup

import (
	"errors"
	"strings"
	"testing"

	"github.com/myshim/myshim/process/spec"
)

func TestLocate(t *testing.T) {
	v2 := []hierarchy{{mount: "/sys/fs/cgroup", root: "/", own: "/system.slice/containerd.service"}}
	v1 := []hierarchy{
		{mount: "/sys/fs/cgroup/unified", root: "/", own: "/u"},
		{controllers: []string{"cpu", "cpuacct"}, mount: "/sys/fs/cgroup/cpu,cpuacct", root: "/", own: "/own"},
		{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", root: "/docker/1", own: "/docker/1/sub"},
	}
	for _, c := range []struct {
		path string
		on   []hierarchy
		want string
	}{
		{"/default/web", v2, "=/sys/fs/cgroup/default/web"},
		{"web", v2, "=/sys/fs/cgroup/system.slice/web"},
		{"/default/web", v1, "=/sys/fs/cgroup/unified/default/web cpu,cpuacct=/sys/fs/cgroup/cpu,cpuacct/default/web memory=/sys/fs/cgroup/memory/default/web"},
		{"web", v1, "=/sys/fs/cgroup/unified/web cpu,cpuacct=/sys/fs/cgroup/cpu,cpuacct/own/web memory=/sys/fs/cgroup/memory/sub/web"},
	} {
		l := locate(c.path, c.on)
		var got []string
		for _, d := range l.Dirs {
			got = append(got, strings.Join(d.Controllers, ",")+"="+d.absolute())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %s\nwant %s", c.path, strings.Join(got, " "), c.want)
		}
		if l.V2() != (len(c.on) == 1) {
			t.Errorf("%s: V2 is %v", c.path, l.V2())
		}
	}
}

func TestResolveErrors(t *testing.T) {
	for _, c := range []struct{ path, id, want string }{
		{"../x", "id", `linux.cgroupsPath: "../x" must not contain ".."`},
		{"/a/../../b", "id", `linux.cgroupsPath: "/a/../../b" must not contain ".."`},
		{"/", "id", `linux.cgroupsPath: "/" is the root of all cgroups`},
		{".", "id", `linux.cgroupsPath: "." is the root of all cgroups`},
		{"a\nb", "id", `linux.cgroupsPath: "a\nb" must not contain line breaks or zero bytes`},
		{"", "../id", `container id: "../id" must not contain ".."`},
	} {
		_, err := Resolve(c.path, c.id, false)
		if err == nil || err.Error() != c.want || !errors.Is(err, spec.ErrInvalid) {
			t.Errorf("Resolve(%q, %q): got %v, want %s", c.path, c.id, err, c.want)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for path, want := range map[string]string{"/a//b/": "/a/b", "a/./b": "a/b", "/..a": "/..a", "a:b": "a:b"} {
		if got, err := checkPath("x", path); got != want || err != nil {
			t.Errorf("%q: got %q, %v", path, got, err)
		}
	}
}

func TestPageSize(t *testing.T) {
	for name, want := range map[string]string{"hugepages-2048kB": "2MB", "hugepages-1048576kB": "1GB", "hugepages-64kB": "64KB", "hugepages-2048": "", "x": ""} {
		if got, _ := pageSize(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("/default/web", "web")
	f.Add("system.slice:cri:web", "web")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, path, id string) {
		l, err := Resolve(path, id, false)
		if err != nil {
			return
		}
		for _, d := range l.Dirs {
			if !strings.HasPrefix(d.Path, "/") || d.Path == "/" || strings.Contains(d.Path+"/", "/../") {
				t.Fatalf("%q, %q: %+v", path, id, d)
			}
		}
	})
}
