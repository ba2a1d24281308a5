package process

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/plan"
	"github.com/myshim/myshim/process/spec"
)

// setLimits sets what a parent sets of its child, since it takes rights that the
// child does not have in a user namespace.
func setLimits(pid int, p *specs.Process) error {
	for i, r := range p.Rlimits {
		soft, hard, again := plan.FirstLimit(r)
		limit := unix.Rlimit{Cur: soft, Max: hard}
		if err := unix.Prlimit(pid, spec.Rlimits[r.Type], &limit, nil); err != nil && !again {
			return fmt.Errorf("process.rlimits[%d]: set %s to %d:%d: %w", i, r.Type, r.Soft, r.Hard, err)
		}
	}
	if io := p.IOPriority; io != nil {
		const whoProcess = 1
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), uintptr(spec.IOPriority(io))); errno != 0 {
			return fmt.Errorf("process.ioPriority: %s, %d: %w", io.Class, io.Priority, errno)
		}
	}
	return nil
}

// setScheduler comes after the last clone of the process: one with a deadline
// must not clone, and SCHED_FLAG_RESET_ON_FORK would be for the clone.
func setScheduler(pid int, s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	attr := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: spec.SchedulerPolicies[s.Policy], Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, flag := range s.Flags {
		attr.Flags |= spec.SchedulerFlags[flag]
	}
	if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
		return fmt.Errorf("process.scheduler: %s: %w", s.Policy, err)
	}
	return nil
}
