package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestPlan has nobody print how a container would be made. The mounts are
// compared with a golden file; the script has one of its own, in process/plan.
func TestPlan(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it has no such command")
		b, _ := s.bundle(still(), withMounts(
			specs.Mount{Destination: "/srv/www", Type: "bind", Source: "html", Options: []string{"rbind", "ro", "rslave"}},
			specs.Mount{Destination: "/data", Type: "ext4", Source: "/dev/sdx", Options: []string{"noatime", "data=ordered"}},
		), withSpec(oci.WithRootFSReadonly(), oci.WithMaskedPaths([]string{"/proc/kcore", "/sys/firmware"})))
		s.must(os.Chmod(filepath.Join(b.Dir, "config.json"), 0o644))
		before := inventoryOf(b.Dir)
		plan := func(args ...string) string {
			cmd := exec.CommandContext(s.ctx, s.runtime.Shim, append([]string{"plan"}, append(args, b.Dir)...)...)
			cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, os.Stderr
			s.must(harness.Run(cmd))
			return out.String()
		}
		text := plan()
		mounts, script, _ := strings.Cut(text, "\nscript:\n")
		mounts = neutralFor(b.ID).text(mounts)
		const golden = "testdata/plan.golden"
		if *rewrite {
			s.must(os.WriteFile(golden, []byte(mounts), 0o644))
		}
		want, err := os.ReadFile(golden)
		s.must(err)
		if mounts != string(want) {
			s.Errorf("the plan has changed (go test -run TestPlan -update .):\n%s\nwant\n%s", mounts, want)
		}
		for _, call := range []string{"pivot_root", "execve", "umount2"} {
			if !strings.Contains(script, call) {
				s.Errorf("no %s in the script:\n%s", call, script)
			}
		}
		var doc struct {
			Mounts []struct{ Field, Action, Destination string }
			Script []struct{ Call string }
		}
		s.must(json.Unmarshal([]byte(plan("--json")), &doc))
		_, table, _ := strings.Cut(mounts, "mount namespace:\n")
		if lines := strings.Count(table, "\n"); len(doc.Mounts) != lines {
			s.Errorf("%d mounts in JSON, %d lines", len(doc.Mounts), lines)
		}
		for _, step := range doc.Script {
			if !strings.Contains(script, step.Call) {
				s.Errorf("%s is not in the text", step.Call)
			}
		}
		if after := inventoryOf(b.Dir); after != before {
			s.Errorf("the bundle had\n%s\nhas\n%s", before, after)
		}
	})
}

func inventoryOf(dir string) string {
	f := facts{}
	f.addTree("", dir)
	text, err := json.MarshalIndent(f, "", " ") // maps are sorted
	if err != nil {
		return err.Error()
	}
	return string(text)
}
