package early_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/myshim/myshim/shim"
	_ "github.com/myshim/myshim/shim/early"
)

// The test binary is also the shim, as in package shim; but `start` and
// `delete` do not get as far as this.
func TestMain(m *testing.M) {
	if os.Getenv("MYSHIM_TEST") != "" {
		shim.Main(shim.Runtime{
			Name: "io.containerd.test.v1",
			Serve: func(context.Context, shim.Daemon, *ttrpc.Server) (shim.Service, error) {
				return idle{}, nil
			},
			Ended: func(shim.Cleanup) shim.Exit { return shim.Exit{PID: 1, Status: 2} },
			Cleanup: func(_ context.Context, c shim.Cleanup) error {
				return os.Remove(filepath.Join(c.Bundle, "state"))
			},
		})
	}
	os.Exit(m.Run())
}

// idle has no containers.
type idle struct{}

func (idle) Release(string)    {}
func (idle) CloseIfIdle() bool { return true }

// run returns what the shim wrote, and which packages were initialised.
func run(t *testing.T, bundle string, stdin []byte, args ...string) (stdout []byte, initialised string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"-namespace", "ns", "-address", bundle, "-id", "early"}, args...)...)
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), "MYSHIM_TEST=1", "GODEBUG=inittrace=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if stdout, err = cmd.Output(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, &stderr)
	}
	for line := range strings.Lines(stderr.String()) {
		if !strings.HasPrefix(line, "init ") {
			t.Errorf("%v: %s", args, line)
		}
	}
	return stdout, stderr.String()
}

func TestEarly(t *testing.T) {
	bundle := t.TempDir()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	params, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "early", Namespace: "ns", SocketDir: &dir})
	if err != nil {
		t.Fatal(err)
	}
	heavy := []string{"init github.com/containerd/ttrpc ", "init google.golang.org/protobuf/internal/impl ", "init github.com/containerd/containerd/api/types "}

	out, initialised := run(t, bundle, params, "start")
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil || result.Version != 3 {
		t.Errorf("start: %v %v", &result, err)
	}
	for _, p := range heavy {
		if strings.Contains(initialised, p) {
			t.Errorf("start: %s", p)
		}
	}

	// Ends the daemon, then has nothing to do, then has.
	for step, want := range []uint32{137, 137, 2} {
		if want == 2 {
			if err := os.WriteFile(filepath.Join(bundle, "state"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, initialised := run(t, bundle, nil, "-bundle", bundle, "delete")
		var answer taskapi.DeleteResponse
		if err := proto.Unmarshal(out, &answer); err != nil || answer.ExitStatus != want {
			t.Errorf("delete %d: %v %v", step, &answer, err)
		}
		for _, p := range heavy {
			if strings.Contains(initialised, p) != (want == 2) {
				t.Errorf("delete %d: %s", step, p)
			}
		}
		if files, _ := os.ReadDir(dir); len(files) > 0 {
			t.Errorf("delete %d has left %v", step, files)
		}
	}
}
