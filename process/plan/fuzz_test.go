package plan

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
)

// named is how an error about a spec begins: with the field. What is no JSON at
// all has the place.
var named = regexp.MustCompile(`^(?:[^:]*: )?(the document|ociVersion|hostname|domainname|annotations|root\b|rootfs\[\d+\]|mounts|process|linux|hooks|solaris|windows|vm|zos|freebsd)|, at byte \d+$`)

// FuzzCompile makes plans of specs and root mounts of any kind. Whatever they
// are, the answer comes soon: a plan that can be printed and encoded, or an error
// that names the field.
func FuzzCompile(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data), "overlay", "lowerdir=/a:/b")
	}
	// A spec of few words, in which a change of any byte counts.
	spec := func(mounts, linux string) string {
		return `{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"cwd":"/","args":["x"]},"mounts":[` + mounts +
			`],"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"cgroup"}]` + linux + `}}`
	}
	for _, m := range []string{
		`{"destination":"/a","type":"bind","source":"b","options":["rbind","rro","idmap"],"uidMappings":[{"containerID":0,"hostID":5,"size":1}]}`,
		`{"destination":"a/../b","type":"tmpfs","options":["size=1m,mode=7","x-y","noatime","tmpcopyup","ro"]}`,
		`{"destination":"/proc","type":"proc"},{"destination":"/proc/meminfo","options":["bind"],"source":"/m"}`,
		`{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro","nsdelegate"]}`,
	} {
		f.Add(spec(m, ""), "format/mkdir/overlay", "X-containerd.mkdir.path={{ mount 0 }}/u:0755:1:1")
	}
	f.Add(spec("", `,"devices":[{"path":"/dev/x","type":"p"}],"maskedPaths":["/a","/a/"],"readonlyPaths":["/b"],"rootfsPropagation":"shared"`), "erofs", "loop")
	f.Add(spec("", `,"uidMappings":[{"containerID":0,"hostID":1,"size":9}],"sysctl":{"net.ipv4.ip_forward":"1"}`), "format/bind", "{{ overlay 3 0 }}")
	f.Fuzz(func(t *testing.T, text, kind, option string) { compileAny(t, text, kind, option) })
}

func compileAny(t *testing.T, text, kind, option string) {
	if len(text) > 1<<16 || len(option) > 1<<12 {
		return
	}
	begin := time.Now()
	err := compilePlan(text, kind, option)
	if err != nil && (!errors.Is(err, spec.ErrInvalid) || !named.MatchString(err.Error())) {
		t.Errorf("the error names no field: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("%d bytes took %v", len(text), took)
	}
}

func compilePlan(text, kind, option string) error {
	c, err := spec.Parse([]byte(text), "/bundle")
	if err != nil {
		return err
	}
	filter, err := seccomp.Compile(c.Linux.Seccomp)
	if err != nil {
		return nil // its own package's tests are about that
	}
	for _, h := range []Host{host, unified} {
		options := Options{RootMounts: []mounts.RootMount{
			{Type: "tmpfs", Source: "tmpfs"}, {Type: kind, Source: option, Target: option, Options: strings.Split(option, ",")},
		}, Visible: len(option)%2 == 0, NoPivotRoot: len(option)%3 == 0}
		p, err := NewCreate(c, "id", filter, h, options)
		if err != nil {
			return err
		}
		if _, err := p.Encode(); err != nil {
			return nil // too much for one script, which the error says
		}
		if _, err := p.MarshalJSON(); err != nil {
			panic(err)
		}
		_ = p.String()
	}
	return nil
}
