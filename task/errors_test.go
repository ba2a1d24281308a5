package task

import (
	"context"
	"fmt"
	"io/fs"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/process/stdio"
)

// What containerd's client makes of our errors.
func TestCode(t *testing.T) {
	for _, test := range []struct {
		err  error
		is   func(error) bool
		text string
	}{
		{fmt.Errorf("container c: %w", process.ErrNotFound), errdefs.IsNotFound, "container c: not found"},
		{fmt.Errorf("container c: %w", process.ErrExists), errdefs.IsAlreadyExists, "container c: already exists"},
		{fmt.Errorf("pause: %w", process.ErrState), errdefs.IsFailedPrecondition, "pause: wrong state"},
		{fmt.Errorf("c: %w", spec.Invalid("process.cwd", "%q is relative", "x")), errdefs.IsInvalidArgument, `c: process.cwd: "x" is relative`},
		{fmt.Errorf("c: %w", stdio.ErrInvalid), errdefs.IsInvalidArgument, "c: invalid stdio"},
		{fmt.Errorf("checkpoint: %w", errdefs.ErrNotImplemented), errdefs.IsNotImplemented, "checkpoint: not implemented"},
		{fmt.Errorf("create: %w", unix.ENOSYS), errdefs.IsUnknown, "create: function not implemented"},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), errdefs.IsDeadlineExceeded, "wait: context deadline exceeded"},
		{fmt.Errorf("wait: %w", context.Canceled), errdefs.IsCanceled, "wait: context canceled"},
		// That a file is missing does not mean that the container is.
		{fmt.Errorf("exec: %w", fs.ErrNotExist), errdefs.IsUnknown, "exec: file does not exist"},
		{fmt.Errorf("%w: %w", process.ErrState, fs.ErrNotExist), errdefs.IsFailedPrecondition, "wrong state: file does not exist"},
	} {
		got := errgrpc.ToNative(code(test.err))
		if !test.is(got) || got.Error() != test.text {
			t.Errorf("%v: %v (%T)", test.err, got, got)
		}
	}
}
