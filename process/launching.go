package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// launching is a process that walks its script.
type launching struct {
	*launch.Init
	script *plan.Script
	rest   []plan.Report // that have not come yet
	report []byte        // the last one

	// answer does what a report asks for.
	answer func(context.Context, plan.Report) error
}

// launch starts a script. init and root are of the container that it enters,
// nil for a new one.
func (c *Container) launch(s *plan.Script, stdio [3]*os.File, join cgroup.Join, init *kernel.Process, root *os.File) (_ *launching, err error) {
	var extra []int
	tasks := join.Tasks
	for _, f := range s.Files {
		var file *os.File
		switch f.Kind {
		case plan.Tasks:
			file, tasks = tasks[0], tasks[1:]
		case plan.CgroupDir:
			file = join.Dir
		case plan.RootDir:
			file = root
		case plan.InitPidfd:
			if file, err = init.Duplicate(); err != nil {
				return nil, err
			}
			defer file.Close()
		case plan.JoinNamespace:
			if file, err = openNamespace(f.Namespace, f.Field); err != nil {
				return nil, err
			}
			defer file.Close()
		}
		extra = append(extra, int(file.Fd()))
	}
	var fds [3]int
	for i, f := range stdio {
		if f == nil { // a terminal takes its place
			if f, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return nil, err
			}
			defer f.Close()
		}
		fds[i] = int(f.Fd())
	}
	in, err := launch.Start(s.Script, fds, extra)
	if err != nil {
		return nil, err
	}
	return &launching{Init: in, script: s, rest: s.Reports}, nil
}

// walk waits for the next report of the script, answers it, and says what it was.
func (l *launching) walk(ctx context.Context) (plan.Report, error) {
	report, err := l.Next(ctx)
	l.report = report
	switch {
	case errors.Is(err, io.EOF):
		return 0, errors.New("the process ended before its time")
	case err != nil:
		return 0, err
	case len(l.rest) == 0:
		return 0, errors.New("the process has more to say than it should")
	}
	kind := l.rest[0]
	l.rest = l.rest[1:]
	switch kind {
	case plan.Cloned:
	case plan.Ready: // the answer is Start
	default:
		err = l.answer(ctx, kind)
	}
	return kind, err
}

// execute answers the reports that are left, and returns when the process has
// become its program.
func (l *launching) execute(ctx context.Context) error {
	for len(l.rest) > 0 {
		if _, err := l.walk(ctx); err != nil {
			return err
		}
	}
	_, err := l.Next(ctx)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return errors.New("the process has more to say than it should")
	}
	return err
}

// unexpected is the error for a report that there is no answer to.
func unexpected(r plan.Report) error {
	return fmt.Errorf("the process says something at the wrong time: %v", r)
}

// setScheduler answers plan.Scheduler.
func (l *launching) setScheduler(s *specs.Scheduler) error {
	if err := setScheduler(l.Process().PID, s); err != nil {
		return err
	}
	return l.Go([]byte{1})
}

// Close gives the socket back; again is no error.
func (l *launching) Close() error {
	if err := l.Init.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
