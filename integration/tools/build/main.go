// Build makes what the tests and the benchmark compare with, and what they run
// inside containers, all of it from the versions pinned in go.mod:
//
//	go run ./tools/build
//
// The yardstick shim gets the same tags and flags as ours. Only runc needs a C
// compiler, and libseccomp's headers for containers with a seccomp profile;
// where they are missing it says so and goes on: the tests then skip runc.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const bin = "../bin"

type program struct {
	pkg  string
	tags string
	cgo  bool
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run() error {
	if _, err := os.Stat("testbox/main.go"); err != nil {
		return errors.New("run it in the directory integration: go run ./tools/build")
	}
	programs := []program{
		{pkg: "github.com/containerd/containerd/v2/cmd/containerd"},
		{pkg: "github.com/containerd/containerd/v2/cmd/ctr"},
		{pkg: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", tags: "no_grpc"},
		{pkg: "./testbox"},
	}
	if _, err := os.Stat("bench/floor"); err == nil {
		programs = append(programs, program{pkg: "./bench/floor", tags: "no_grpc"})
	}
	for _, p := range programs {
		if err := p.build(); err != nil {
			return err
		}
	}
	return buildRunc()
}

func buildRunc() error {
	runc := program{pkg: "github.com/opencontainers/runc", cgo: true}
	cc := "gcc"
	if env := os.Getenv("CC"); env != "" {
		cc = env
	}
	if _, err := exec.LookPath(cc); err != nil {
		note("no C compiler (%s): runc is NOT built, the tests run without their yardstick", cc)
		return nil
	}
	if err := exec.Command("pkg-config", "--exists", "libseccomp").Run(); err != nil {
		note("no libseccomp headers (Debian: libseccomp-dev): runc is built without seccomp, comparisons with a seccomp profile are skipped")
	} else {
		runc.tags = "seccomp"
	}
	return runc.build()
}

func (p program) build() error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", p.tags,
		"-o", filepath.Join(bin, filepath.Base(p.pkg)), p.pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if p.cgo {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	fmt.Println(strings.Join(cmd.Args, " "))
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", p.pkg, err)
	}
	return nil
}

func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "\n*** NOTE: "+format+" ***\n\n", args...)
}
