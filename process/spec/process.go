package spec

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxString is how long an argument or a variable of execve(2) may be,
// MAX_ARG_STRLEN with the NUL.
const maxString = 32*4096 - 1

// maxPath is how many directories PATH may have. Each of them makes the plan longer,
// which the shim's memory has to hold.
const maxPath = 1024

func checkProcess(p *specs.Process, field string) error {
	if !filepath.IsAbs(p.Cwd) || strings.Contains(p.Cwd, "\x00") {
		return Invalid(field+".cwd", "%q is not an absolute path", p.Cwd)
	}
	if len(p.Args) == 0 {
		return Invalid(field+".args", "there is no program")
	}
	if p.Args[0] == "" { // the words for what cannot be found
		return Invalid(field+".args[0]", `exec: "": executable file not found in $PATH`)
	}
	for i, arg := range p.Args {
		if err := checkString(fmt.Sprintf("%s.args[%d]", field, i), arg); err != nil {
			return err
		}
	}
	for i, kv := range p.Env {
		at := fmt.Sprintf("%s.env[%d]", field, i)
		if err := checkString(at, kv); err != nil {
			return err
		}
		switch strings.IndexByte(kv, '=') {
		case -1:
			return Invalid(at, "%.80q has no '='", kv)
		case 0:
			return Invalid(at, "%.80q has no name", kv)
		}
		if n := strings.Count(kv, ":"); strings.HasPrefix(kv, "PATH=") && n >= maxPath {
			return Invalid(at, "PATH has %d directories, more than %d", n+1, maxPath)
		}
	}
	if err := checkUser(&p.User, field+".user"); err != nil {
		return err
	}
	if err := checkRlimits(p.Rlimits, field+".rlimits"); err != nil {
		return err
	}
	if a := p.OOMScoreAdj; a != nil && (*a < -1000 || *a > 1000) {
		return Invalid(field+".oomScoreAdj", "%d is not between -1000 and 1000", *a)
	}
	if s := p.Scheduler; s != nil {
		if _, ok := SchedulerPolicies[s.Policy]; !ok {
			return Invalid(field+".scheduler.policy", "there is no policy %q", s.Policy)
		}
		if s.Nice < -20 || s.Nice > 19 {
			return Invalid(field+".scheduler.nice", "%d is not between -20 and 19", s.Nice)
		}
		for i, f := range s.Flags {
			if _, ok := SchedulerFlags[f]; !ok {
				return Invalid(fmt.Sprintf("%s.scheduler.flags[%d]", field, i), "there is no flag %q", f)
			}
		}
	}
	if io := p.IOPriority; io != nil {
		if _, ok := ioPriorityClasses[io.Class]; !ok {
			return Invalid(field+".ioPriority.class", "there is no class %q", io.Class)
		}
		if io.Priority < 0 || io.Priority > 7 {
			return Invalid(field+".ioPriority.priority", "%d is not between 0 and 7", io.Priority)
		}
	}
	return checkAffinity(p.ExecCPUAffinity, field+".execCPUAffinity")
}

// Inherit fills in what the process of an exec leaves open: as under runc, that
// is as for the container's process. What can be said with an empty value, as
// user, environment, limits and noNewPrivileges, is not left open.
func (c *Container) Inherit(p *specs.Process) {
	own := c.Process
	if p.Capabilities == nil {
		p.Capabilities = own.Capabilities
	}
	if p.User.Umask == nil {
		p.User.Umask = own.User.Umask
	}
	if p.ApparmorProfile == "" {
		p.ApparmorProfile = own.ApparmorProfile
	}
	if p.SelinuxLabel == "" {
		p.SelinuxLabel = own.SelinuxLabel
	}
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = own.OOMScoreAdj
	}
	if p.Scheduler == nil {
		p.Scheduler = own.Scheduler
	}
	if p.IOPriority == nil {
		p.IOPriority = own.IOPriority
	}
	if p.ExecCPUAffinity == nil {
		p.ExecCPUAffinity = own.ExecCPUAffinity
	}
}

func checkString(field, s string) error {
	if strings.Contains(s, "\x00") {
		return Invalid(field, "there is a NUL in it")
	}
	if len(s) > maxString {
		return Invalid(field, "%d bytes are more than execve takes, %d", len(s), maxString)
	}
	return nil
}

func checkUser(u *specs.User, field string) error {
	// The kernel takes -1 for "leave it as it is": the process would stay
	// root (setresuid(2)).
	const none = math.MaxUint32
	if u.UID == none {
		return Invalid(field+".uid", "%d is not a user", u.UID)
	}
	if u.GID == none {
		return Invalid(field+".gid", "%d is not a group", u.GID)
	}
	for i, gid := range u.AdditionalGids {
		if gid == none {
			return Invalid(fmt.Sprintf("%s.additionalGids[%d]", field, i), "%d is not a group", gid)
		}
	}
	if u.Umask != nil && *u.Umask > 0o777 {
		return Invalid(field+".umask", "%#o is more than 0777", *u.Umask)
	}
	return nil
}

func checkRlimits(list []specs.POSIXRlimit, field string) error {
	var seen []string
	for i, r := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case !knownRlimit(r.Type):
			return Invalid(at+".type", "there is no resource %q", r.Type)
		case slices.Contains(seen, r.Type):
			return Invalid(at+".type", "%s is there twice", r.Type)
		case r.Soft > r.Hard:
			return Invalid(at+".soft", "%d is more than the hard limit, %d", r.Soft, r.Hard)
		}
		seen = append(seen, r.Type)
	}
	return nil
}

func knownRlimit(name string) bool {
	_, ok := Rlimits[name]
	return ok
}

// Rlimits are the resources of setrlimit(2).
var Rlimits = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

// SchedulerPolicies are the policies of sched_setattr(2).
var SchedulerPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther:    unix.SCHED_NORMAL,
	specs.SchedFIFO:     unix.SCHED_FIFO,
	specs.SchedRR:       unix.SCHED_RR,
	specs.SchedBatch:    unix.SCHED_BATCH,
	specs.SchedISO:      4, // SCHED_ISO, reserved by the kernel, which refuses it
	specs.SchedIdle:     unix.SCHED_IDLE,
	specs.SchedDeadline: unix.SCHED_DEADLINE,
}

// SchedulerFlags are the flags of sched_setattr(2).
var SchedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork:  unix.SCHED_FLAG_RESET_ON_FORK,
	specs.SchedFlagReclaim:      unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun:    unix.SCHED_FLAG_DL_OVERRUN,
	specs.SchedFlagKeepPolicy:   unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams:   unix.SCHED_FLAG_KEEP_PARAMS,
	specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// IOPriority is one as ioprio_set(2) takes it.
func IOPriority(io *specs.LinuxIOPriority) int {
	const classShift = 13
	return ioPriorityClasses[io.Class]<<classShift | io.Priority
}

// ioPriorityClasses are the classes of ioprio_set(2).
var ioPriorityClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT:   1,
	specs.IOPRIO_CLASS_BE:   2,
	specs.IOPRIO_CLASS_IDLE: 3,
}
