package cgroup

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// run is the kernel's interpreter, as far as a device program needs one.
func run(t *testing.T, program []instruction, kind byte, major, minor uint32, a access) bool {
	t.Helper()
	context := []uint32{uint32(a)<<16 | map[byte]uint32{'b': 1, 'c': 2}[kind], major, minor}
	var r [11]uint64
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		dst, src := in.regs&15, in.regs>>4
		imm := uint32(in.value)
		jump := false
		switch in.code {
		case ldxw:
			r[dst] = uint64(context[in.offset/4])
		case movImm:
			r[dst] = uint64(imm)
		case movReg:
			r[dst] = uint64(uint32(r[src]))
		case andImm:
			r[dst] = uint64(uint32(r[dst]) & imm)
		case rshImm:
			r[dst] = uint64(uint32(r[dst]) >> imm)
		case jneImm:
			jump = uint32(r[dst]) != imm
		case jneReg:
			jump = uint32(r[dst]) != uint32(r[src])
		case jeqImm:
			jump = uint32(r[dst]) == imm
		case exitCode:
			return r[0] == 1
		default:
			t.Fatalf("%d: instruction %#x", pc, in.code)
		}
		if jump {
			pc += int(in.offset)
		}
	}
	t.Fatal("the program does not end")
	return false
}

// allowed is what v1's controller answers (security/device_cgroup.c).
func (f filter) allowed(kind byte, major, minor int64, a access) bool {
	for d, x := range f.exceptions {
		if d.kind != kind || d.major >= 0 && d.major != major || d.minor >= 0 && d.minor != minor {
			continue
		}
		if f.allow && x&a != 0 {
			return false // some of it is denied
		}
		if !f.allow && x&a == a {
			return true // all of it is allowed
		}
	}
	return f.allow
}

func randomRules() (rules []specs.LinuxDeviceCgroup) {
	for range rand.IntN(8) {
		major, minor := rand.Int64N(4)-1, rand.Int64N(4)-1
		rules = append(rules, specs.LinuxDeviceCgroup{
			Allow: rand.IntN(2) == 0, Type: []string{"a", "b", "c", "c", "b", "c"}[rand.IntN(6)],
			Major: &major, Minor: &minor, Access: access(1 + rand.IntN(7)).String(),
		})
	}
	return rules
}

func TestDeviceProgram(t *testing.T) {
	for range 5000 {
		f, err := newFilter(randomRules())
		if err != nil {
			continue
		}
		program := f.program()
		for _, kind := range []byte{'b', 'c'} {
			for major := range int64(4) {
				for minor := range int64(4) {
					for a := access(1); a < 8; a++ {
						if got, want := run(t, program, kind, uint32(major), uint32(minor), a), f.allowed(kind, major, minor, a); got != want {
							t.Fatalf("%v: %c %d:%d %v: program says %v, want %v", f, kind, major, minor, a, got, want)
						}
					}
				}
			}
		}
	}
}

// devicesList is v1's devices.list of a filter that allows only its exceptions.
func devicesList(f filter) string {
	if f.allow {
		return "a *:* rwm\n"
	}
	var out strings.Builder
	for _, d := range f.ordered() {
		fmt.Fprintf(&out, "%v %v\n", d, f.exceptions[d])
	}
	return out.String()
}

// What v1's files are written leads from any rules to any others, and nothing
// that both allow is denied on the way.
func TestDevicesTransition(t *testing.T) {
	for range 5000 {
		from, err1 := newFilter(randomRules())
		rules := randomRules()
		to, err2 := newFilter(rules)
		if err1 != nil || err2 != nil {
			continue
		}
		facts := testFacts(false, false, map[string]string{"devices.list": devicesList(from)})
		writes, err := Plan(&specs.LinuxResources{Devices: rules}, facts)
		if err != nil {
			t.Fatal(err)
		}
		now := from
		now.exceptions = map[device]access{}
		for d, a := range from.exceptions {
			now.exceptions[d] = a
		}
		for _, w := range writes {
			f := strings.FieldsFunc(w.Value, func(r rune) bool { return r == ' ' || r == ':' })
			allow := w.File == "devices.allow"
			if f[0] == "a" {
				now = filter{allow: allow, exceptions: map[device]access{}}
				continue
			}
			line, err := parseFilter(w.Value)
			if err != nil {
				t.Fatal(err)
			}
			for d, a := range line.exceptions { // the kernel: this very one
				if allow != now.allow {
					now.exceptions[d] |= a
				} else if now.exceptions[d] &^= a; now.exceptions[d] == 0 {
					delete(now.exceptions, d)
				}
			}
			if from.allow || to.allow {
				continue // starts anew
			}
			for d, a := range from.exceptions {
				if both := a & to.exceptions[d]; now.exceptions[d]&both != both {
					t.Fatalf("%v -> %v: %v denies %v %v meanwhile", from, to, w, d, both)
				}
			}
		}
		if now.String() != to.String() {
			t.Fatalf("%v -> %v: got %v, by %v", from, to, now, writes)
		}
	}
}

func TestParseFilter(t *testing.T) {
	for list, want := range map[string]string{
		"a *:* rwm\n":            "allow all",
		"":                       "deny all",
		"c 1:3 rwm\nb *:* m\n":   "deny all, but b *:* m, but c 1:3 rwm",
		"c 1:3 r\nc 1:3 w\n":     "deny all, but c 1:3 rw",
		"c 1:3\n":                "error",
		"c x:3 rwm\n":            "error",
		"c 1:99999999999 rwm\n":  "error",
		"devices are all here\n": "error",
	} {
		f, err := parseFilter(list)
		got := f.String()
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", list, got, want)
		}
	}
}
