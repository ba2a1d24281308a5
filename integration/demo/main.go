// Demo starts a private containerd, runs a container and an exec in it with the
// shim, shows what a user would type and see, and leaves nothing:
//
//	go run ./demo [-runtime io.containerd.runc.v2]
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/myshim/myshim/integration/harness"
)

const image = "demo:latest"

func main() {
	runtime := flag.String("runtime", harness.Myshim().Type, "containerd's name of the runtime, or the path of its shim")
	flag.Parse()
	os.Exit(harness.Main(func() int {
		if err := run(*runtime); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			return 1
		}
		return 0
	}))
}

type demo struct {
	ctx    context.Context
	daemon *harness.Daemon
}

func run(runtime string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	daemon, err := harness.StartDaemon(ctx, "c", "info")
	if err != nil {
		return err
	}
	defer func() {
		if stop := daemon.Stop(); err == nil {
			err = stop
		}
		if err == nil {
			fmt.Println("\nDone; everything is removed again.")
		}
	}()
	base, err := harness.Base()
	if err != nil {
		return err
	}
	if _, err := harness.ImportImage(daemon.Context(ctx), daemon.Client, image, base); err != nil {
		return err
	}
	d := demo{ctx, daemon}
	fmt.Printf("A private containerd is running in %s, with an image of one small program.\n", daemon.Dir)

	name := harness.Tag + "-web"
	for _, step := range []struct {
		title string
		words []string // of ctr; none to measure execs
	}{
		{"A container, from start to removal:", []string{"run", "--rm", "--runtime", runtime, image, harness.Tag + "-hello", "/bin/testbox", "echo", "hello from a container"}},
		{"One that stays:", []string{"run", "-d", "--runtime", runtime, image, name, "/bin/testbox", "sleep", "inf"}},
		{"", []string{"task", "ls"}},
		{"A command in it:", []string{"task", "exec", "--exec-id", "first", name, "/bin/testbox", "echo", "hello from inside"}},
		{"Its processes, as it sees them:", []string{"task", "exec", "--exec-id", "second", name, "/bin/testbox", "report", "proc"}},
		{"How long an exec takes, without ctr:", nil},
		{"And away:", []string{"task", "rm", "-f", name}},
		{"", []string{"container", "rm", name}},
	} {
		if step.title != "" {
			fmt.Printf("\n%s\n", step.title)
		}
		if step.words == nil {
			err = d.execs(name, 30)
		} else {
			err = d.ctr(step.words)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Execs measures n execs by containerd's client, as the probes of an orchestrator
// do them: prepared, started, waited for, deleted.
func (d demo) execs(name string, n int) error {
	ctx := d.daemon.Context(d.ctx)
	c, err := d.daemon.Client.LoadContainer(ctx, name)
	if err != nil {
		return err
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return err
	}
	spec.Process.Args = []string{"/bin/quick"}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range n {
		time.Sleep(20 * time.Millisecond) // a busy machine would flatter
		started := time.Now()
		p, err := task.Exec(ctx, fmt.Sprint("probe-", i), spec.Process, cio.NullIO)
		if err != nil {
			return err
		}
		exit, err := p.Wait(ctx)
		if err != nil {
			return err
		}
		if err := p.Start(ctx); err != nil {
			return err
		}
		if status := <-exit; status.Error() != nil || status.ExitCode() != 0 {
			return fmt.Errorf("an exec ends with %+v", status)
		}
		if _, err := p.Delete(ctx); err != nil {
			return err
		}
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	fmt.Printf("  %d execs: median %.1f ms, slowest %.1f ms\n", n, float64(took[n/2].Microseconds())/1000, float64(took[n-1].Microseconds())/1000)
	return nil
}

// Ctr shows the command, its output, and how long it took.
func (d demo) ctr(words []string) error {
	fmt.Printf("  $ ctr %s\n", strings.Join(words, " "))
	cmd := d.daemon.Ctr(d.ctx, words...)
	var out, warn bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warn
	started := time.Now()
	err := harness.Run(cmd)
	took := time.Since(started)
	for _, line := range strings.Split(strings.TrimRight(out.String(), "\n"), "\n") {
		if line != "" {
			fmt.Printf("    %s\n", line)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, warn.String())
	}
	fmt.Printf("    (%.0f ms, with ctr and containerd)\n", float64(took.Microseconds())/1000)
	return nil
}
