// Floor makes and starts the container of a bundle by the scripts that the shim
// would run, straight from package launch: no shim, no RPC, no state, no limits,
// no streams. It prints the milliseconds that took: what the kernel wants for
// such a container.
//
//	floor -bundle DIR -overlay OPTIONS
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/plan"
	"github.com/myshim/myshim/process/spec"
)

func init() { runtime.LockOSThread() } // see kernel.EnterMounts

func main() {
	bundle := flag.String("bundle", "", "directory with config.json")
	overlay := flag.String("overlay", "", "options of the overlay mount that is the root")
	flag.Parse()
	took, err := run(*bundle, mounts.RootMount{Type: "overlay", Source: "overlay", Options: strings.Split(*overlay, ",")})
	if err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
	fmt.Printf("%.3f\n", float64(took.Microseconds())/1000)
}

// run prepares everything that is data, and times the rest.
func run(bundle string, root mounts.RootMount) (took time.Duration, err error) {
	c, err := spec.Load(bundle)
	if err != nil {
		return 0, err
	}
	location, err := cgroup.Resolve(c.Linux.CgroupsPath, "floor", false)
	if err != nil {
		return 0, err
	}
	group, err := cgroup.Create(location, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, group.Kill(), group.Delete(context.Background())) }()
	join, err := group.Join()
	if err != nil {
		return 0, err
	}
	defer join.Close()
	own, err := caps.Own()
	if err != nil {
		return 0, err
	}
	p, err := plan.NewCreate(c, "floor", nil,
		plan.Host{Capabilities: own, Tasks: len(join.Tasks), CgroupDir: join.Dir != nil},
		plan.Options{RootMounts: []mounts.RootMount{root}})
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	fd := int(null.Fd())
	tasks := join.Tasks
	var extra []int
	for _, f := range p.Files {
		if f.Kind == plan.CgroupDir {
			extra = append(extra, int(join.Dir.Fd()))
			continue
		}
		extra = append(extra, int(tasks[0].Fd()))
		tasks = tasks[1:]
	}

	began := time.Now()
	in, err := launch.Start(p.Script.Script, [3]int{fd, fd, fd}, extra)
	if err != nil {
		return 0, err
	}
	err = start(in, p)
	took = time.Since(began)
	return took, errors.Join(err, in.Kill())
}

// start is what the shim does while the script runs.
func start(in *launch.Init, p *plan.Create) error {
	ctx := context.Background()
	report, err := in.Next(ctx) // plan.Supers
	if err != nil {
		return err
	}
	init := in.Process()
	supers := make([]*os.File, len(p.Supers))
	for i, cell := range p.Supers {
		if supers[i], err = init.Descriptor(int(cell.Value(report)), "mount"); err != nil {
			return err
		}
	}
	var root *os.File
	err = init.EnterMounts(func() (err error) {
		builder := mounts.Builder{Supers: supers}
		if root, err = p.Mounts.Build(builder); err == nil {
			err = p.Mounts.Finish(builder, root, nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := in.Go([]byte{0}, int(root.Fd())); err != nil {
		return err
	}
	if _, err := in.Next(ctx); err != nil { // plan.Ready
		return err
	}
	if err := in.Go([]byte{1}); err != nil {
		return err
	}
	if _, err := in.Next(ctx); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the program does not run: %w", err)
	}
	return nil
}
