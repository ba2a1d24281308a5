package integration

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/myshim/myshim/integration/harness"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

// TestImports holds which package of the shim may import which other one: the
// arrows of DESIGN.md. A new one shows in the diff of the golden file.
func TestImports(t *testing.T) {
	const golden, module = "testdata/imports.golden", "github.com/myshim/myshim"
	cmd := exec.Command("go", "list", "-tags", "no_grpc", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...")
	cmd.Dir = ".."
	var out, warn bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warn
	if err := harness.Run(cmd); err != nil {
		t.Fatalf("%v: %s", err, warn.String())
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		words := strings.Fields(line)
		own := slices.DeleteFunc(words, func(word string) bool { return !strings.HasPrefix(word, module+"/") })
		for i := range own {
			own[i] = strings.TrimPrefix(own[i], module+"/")
		}
		if len(own) > 0 {
			lines = append(lines, own[0]+": "+strings.Join(own[1:], " "))
		}
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("imports have changed (go test -run TestImports -update .):\n%s\nwant\n%s", got, want)
	}
}
