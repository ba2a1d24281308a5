package task

import (
	"context"
	"errors"

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
	// Only where a method says so: containerd takes it for an older service, and
	// calls again. Not errors.ErrUnsupported, which some errnos are.
	{errdefs.ErrNotImplemented, errdefs.ErrNotImplemented},
	{context.Canceled, context.Canceled},
	{context.DeadlineExceeded, context.DeadlineExceeded},
}

// code gives an error the code that containerd acts on.
func code(err error) error {
	for _, c := range codes {
		if errors.Is(err, c.ours) {
			return errgrpc.ToGRPC(coded{err.Error(), c.theirs})
		}
	}
	return errgrpc.ToGRPC(errors.New(err.Error()))
}

// coded is the text of an error, and one kind. What else it is made of means
// nothing to containerd, or, as fs.ErrNotExist, something else.
type coded struct {
	text string
	kind error
}

func (e coded) Error() string { return e.text }
func (e coded) Unwrap() error { return e.kind }
