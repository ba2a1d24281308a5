package process

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/plan"
)

var openProc = kernel.OpenProc // another one in tests

// openProc opens a context for a procfs of the pid namespace that the container
// will enter, see mounts.Config.EntersLast.
func (m *making) openProc(ctx context.Context) (*os.File, error) {
	proc, err := openProc(m.init.PIDNamespace())
	if errors.Is(err, errors.ErrUnsupported) {
		return m.openProcInside(ctx)
	}
	return proc, err
}

// openProcInside has a process open it that is in the namespace.
func (m *making) openProcInside(ctx context.Context) (_ *os.File, err error) {
	join, err := m.group.Join()
	if err != nil {
		return nil, err
	}
	defer join.Close()
	pids := specs.LinuxNamespace{Type: specs.PIDNamespace, Path: m.init.PIDNamespace()}
	opener, err := plan.NewProcOpener(pids, plan.Host{Tasks: len(join.Tasks), CgroupDir: join.Dir != nil})
	if err != nil {
		return nil, err
	}
	l, err := m.launch(&opener.Script, [3]*os.File{}, join, nil, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Kill()) }()
	var proc *os.File
	l.answer = func(context.Context, plan.Report) (err error) {
		if proc, err = l.Process().Descriptor(int(opener.Context.Value(l.report)), "procfs"); err != nil {
			return err
		}
		return kernel.VerifyProc(proc)
	}
	for proc == nil {
		if _, err := l.walk(ctx); err != nil {
			if proc != nil {
				err = errors.Join(err, proc.Close())
			}
			return nil, fmt.Errorf("open a procfs in %s: %w", pids.Path, err)
		}
	}
	return proc, nil
}
