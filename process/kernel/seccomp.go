package kernel

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// SeccompFlags are the flags of seccomp(2) that this kernel knows for a filter,
// of those that are younger than the oldest kernel we run on.
var SeccompFlags = sync.OnceValues(func() (uint32, error) {
	// WAIT_KILLABLE_RECV is in Linux since 5.19, and only with NEW_LISTENER. With
	// no filter the call fails in any case: with EINVAL if the flags are not
	// known, else with EFAULT.
	const old = unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	const young = unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	_, _, err := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|young, 0)
	switch {
	case errors.Is(err, unix.EFAULT):
		return old | young, nil
	case errors.Is(err, unix.EINVAL):
		return old, nil
	}
	return 0, err
})
