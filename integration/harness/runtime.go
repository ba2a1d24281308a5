package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Runtime is a shim together with what it runs containers with.
type Runtime struct {
	Name    string // as in MYSHIM_RUNTIME, in the names of subtests and in tables
	Type    string // for containerd
	Shim    string // absolute path of the binary
	Options string // BinaryName for the runc shim, when it isn't runc
	Missing string // why it can't run here; "" when it can
}

// Oracle is the runtime that tests have to pass on first.
const Oracle = "runc"

// Runtimes are the ones that MYSHIM_RUNTIME asks for (runc, myshim, or both,
// which is the default), also when they are missing: the caller says so.
func Runtimes() ([]Runtime, error) {
	all := []Runtime{Myshim(), Runc()}
	want := os.Getenv("MYSHIM_RUNTIME")
	if want == "" || want == "both" {
		return all, nil
	}
	for _, r := range all {
		if r.Name == want {
			return []Runtime{r}, nil
		}
	}
	return nil, fmt.Errorf("MYSHIM_RUNTIME=%s: want runc, myshim or both", want)
}

// Myshim is what is tested.
func Myshim() Runtime {
	return find("myshim", "io.containerd.myshim.v1")
}

// Runc is containerd's own shim with runc.
func Runc() Runtime {
	r := find("runc", "io.containerd.runc.v2", "runc")
	if r.Missing != "" {
		r.Missing += " (go run ./tools/build says why)"
	}
	return r
}

// Crun is containerd's own shim with crun, where that is installed.
func Crun() Runtime {
	r := find("crun", "io.containerd.runc.v2")
	path, err := exec.LookPath("crun")
	if err != nil {
		r.Missing = "no crun on PATH"
	}
	r.Options = path
	return r
}

func find(name, kind string, needs ...string) Runtime {
	parts := strings.Split(kind, ".")
	n := len(parts)
	shim := fmt.Sprintf("containerd-shim-%s-%s", parts[n-2], parts[n-1])
	r := Runtime{Name: name, Type: kind, Shim: Bin(shim)}
	for _, file := range append(needs, shim) {
		if _, err := os.Stat(Bin(file)); err != nil {
			r.Missing = Bin(file) + " isn't built"
		}
	}
	return r
}

// Bin is the absolute path of a program in the repository's bin directory,
// seen from the directory of any package of this module.
func Bin(name string) string {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "bin", "containerd")); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return filepath.Join(dir, "bin", name)
}
