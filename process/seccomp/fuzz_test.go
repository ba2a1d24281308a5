package seccomp

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// FuzzCompile compares filters with what their profiles mean. A profile is
// JSON, or anything else that dice are thrown with.
func FuzzCompile(f *testing.F) {
	for _, p := range profiles(f) {
		text, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_NOTIFY"}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":[""],"action":"SCMP_ACT_TRAP","args":[{"index":9}]}]}`))
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		seed := make([]byte, 200)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &specs.LinuxSeccomp{}
		if err := json.Unmarshal(data, p); err != nil {
			p = throw(data)
		}
		for _, native := range []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64, specs.ArchRISCV64, specs.ArchLOONGARCH64} {
			filter, err := compileFor(native, p)
			if err != nil {
				if !errors.Is(err, spec.ErrInvalid) {
					t.Fatal(err)
				}
				continue
			}
			if filter != nil {
				compare(t, meaningOf(p, native), filter)
			}
		}
	})
}

// dice throws what the data says.
type dice []byte

func (d *dice) throw(sides int) int {
	if len(*d) == 0 {
		return 0
	}
	n := int((*d)[0]) % sides
	*d = (*d)[1:]
	return n
}

func one[T any](d *dice, of ...T) T { return of[d.throw(len(of))] }

// throw makes a profile in which rules meet: few names, few values.
func throw(data []byte) *specs.LinuxSeccomp {
	d := dice(data[:min(len(data), 300)])
	errno := func(a specs.LinuxSeccompAction) *uint {
		if n := uint(d.throw(3)); n > 0 && (a == specs.ActErrno || a == specs.ActTrace) {
			return &n
		}
		return nil
	}
	p := &specs.LinuxSeccomp{
		DefaultAction: one(&d, specs.ActErrno, specs.ActAllow, specs.ActKill, specs.ActTrace, specs.ActLog),
		ListenerPath:  "/agent",
	}
	p.DefaultErrnoRet = errno(p.DefaultAction)
	for _, a := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM, specs.ArchRISCV64} {
		if d.throw(3) > 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	for len(d) > 0 {
		s := specs.LinuxSyscall{Action: one(&d, specs.ActAllow, specs.ActErrno, specs.ActTrap, specs.ActNotify, specs.ActAllow, specs.ActKillProcess)}
		s.ErrnoRet = errno(s.Action)
		for range 1 + d.throw(3) {
			s.Names = append(s.Names, one(&d, "read", "socket", "socketcall", "shmat", "semop", "send", "clone3",
				"personality", "ioctl", "execve", "set_tls", "cacheflush", "mmap2", "openat2", "futex", "nothing"))
		}
		for range one(&d, 0, 1, 1, 1, 2, 2, 3) {
			s.Args = append(s.Args, specs.LinuxSeccompArg{
				Index: uint(one(&d, 0, 0, 1, 2, 5)),
				Op: one(&d, specs.OpEqualTo, specs.OpEqualTo, specs.OpNotEqual, specs.OpMaskedEqual,
					specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual),
				Value:    one[uint64](&d, 0, 1, 2, 3, 0xf0, 1<<32, 1<<32|2, 1<<31, 1<<32-1, 1<<63|3, 1<<64-1),
				ValueTwo: one[uint64](&d, 0, 1, 3, 0xff, 1<<32, 1<<64-1),
			})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}
