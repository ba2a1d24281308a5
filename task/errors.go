package task

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/myshim/myshim/process"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/process/stdio"
)

// codes are containerd's kinds of errors for ours, the first that fits.
var codes = []struct{ ours, theirs error }{
	{process.ErrNotFound, errdefs.ErrNotFound},
	{process.ErrExists, errdefs.ErrAlreadyExists},
	{process.ErrState, errdefs.ErrFailedPrecondition},
	{spec.ErrInvalid, errdefs.ErrInvalidArgument},
	{stdio.ErrInvalid, errdefs.ErrInvalidArgument},
	{errors.ErrUnsupported, errdefs.ErrNotImplemented},
	{context.Canceled, context.Canceled},
	{context.DeadlineExceeded, context.DeadlineExceeded},
}

// code gives an error the code that containerd acts on.
func code(err error) error {
	for _, c := range codes {
		if errors.Is(err, c.ours) {
			// Its text, and no more of it: what it is made of means nothing to
			// containerd, and some of it, fs.ErrNotExist, something else.
			return errgrpc.ToGRPC(fmt.Errorf("%s: %w", err.Error(), c.theirs))
		}
	}
	return errgrpc.ToGRPC(errors.New(err.Error()))
}
