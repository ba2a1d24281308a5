package cgroup

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// defaultDevices are what every container may use, after the rules of the spec
// and in spite of them. Not all of these are in the OCI spec, but this is what
// runc has always allowed, and images count on it: mknod of anything, /dev/pts
// and ptmx, /dev/net/tun.
var defaultDevices = []struct {
	path string // in linux.devices, replaces the rule
	rule specs.LinuxDeviceCgroup
}{
	{"", allow("c", -1, -1, "m")},
	{"", allow("b", -1, -1, "m")},
	{"/dev/null", allow("c", 1, 3, "rwm")},
	{"/dev/random", allow("c", 1, 8, "rwm")},
	{"/dev/full", allow("c", 1, 7, "rwm")},
	{"/dev/tty", allow("c", 5, 0, "rwm")},
	{"/dev/zero", allow("c", 1, 5, "rwm")},
	{"/dev/urandom", allow("c", 1, 9, "rwm")},
	{"", allow("c", 136, -1, "rwm")},
	{"", allow("c", 5, 2, "rwm")},
	{"", allow("c", 10, 200, "rwm")},
}

func allow(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access}
}

// DeviceRules returns the rules of linux.resources with those that every
// container has besides. A default device that the spec itself makes is left to
// the spec's rules.
func DeviceRules(l *specs.Linux) []specs.LinuxDeviceCgroup {
	var rules []specs.LinuxDeviceCgroup
	if l.Resources != nil {
		rules = slices.Clone(l.Resources.Devices)
	}
	for _, d := range defaultDevices {
		if d.path != "" && slices.ContainsFunc(l.Devices, func(made specs.LinuxDevice) bool { return made.Path == d.path }) {
			continue
		}
		rules = append(rules, d.rule)
	}
	return rules
}

// access is a set of r, w and m, with the numbers of the BPF program's context.
type access uint32

const (
	mknod access = 1 << iota
	read
	write
)

func parseAccess(text string) (a access) {
	for _, c := range text {
		switch c {
		case 'r':
			a |= read
		case 'w':
			a |= write
		case 'm':
			a |= mknod
		}
	}
	return a
}

func (a access) String() string {
	var text []byte
	for _, x := range []struct {
		bit access
		c   byte
	}{{read, 'r'}, {write, 'w'}, {mknod, 'm'}} {
		if a&x.bit != 0 {
			text = append(text, x.c)
		}
	}
	return string(text)
}

// device is what a rule is about.
type device struct {
	kind         byte  // 'b' or 'c'
	major, minor int64 // -1 is all
}

func (d device) String() string {
	star := func(n int64) string {
		if n < 0 {
			return "*"
		}
		return itoa(n)
	}
	return fmt.Sprintf("%c %s:%s", d.kind, star(d.major), star(d.minor))
}

// filter is what a list of rules comes to: everything is allowed, or denied,
// but for exceptions. It is how v1's controller thinks, and v2's program
// follows it, so that a spec means the same on both.
type filter struct {
	allow      bool
	exceptions map[device]access
}

// ordered lists the exceptions by number.
func (f filter) ordered() []device {
	list := make([]device, 0, len(f.exceptions))
	for d := range f.exceptions {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b device) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor), cmp.Compare(a.kind, b.kind))
	})
	return list
}

// String lists the filter as v1's devices.list would, if it could.
func (f filter) String() string {
	lines := []string{map[bool]string{true: "allow all", false: "deny all"}[f.allow]}
	for _, d := range f.ordered() {
		lines = append(lines, fmt.Sprintf("but %v %v", d, f.exceptions[d]))
	}
	return strings.Join(lines, ", ")
}

// newFilter applies the rules, one after the other, to nothing allowed.
func newFilter(rules []specs.LinuxDeviceCgroup) (filter, error) {
	f := filter{exceptions: make(map[device]access)}
	for i, r := range rules {
		if err := f.apply(r); err != nil {
			return f, spec.Invalid(fmt.Sprintf("linux.resources.devices[%d]", i), "%v", err)
		}
	}
	return f, nil
}

func (f *filter) apply(r specs.LinuxDeviceCgroup) error {
	if r.Access == "" {
		return fmt.Errorf("access is empty")
	}
	d, a := device{major: -1, minor: -1}, parseAccess(r.Access)
	if r.Major != nil {
		d.major = *r.Major
	}
	if r.Minor != nil {
		d.minor = *r.Minor
	}
	switch r.Type {
	case "", "a": // whatever the rest says
		*f = filter{allow: r.Allow, exceptions: make(map[device]access)}
		return nil
	case "b", "c":
		d.kind = r.Type[0]
	default:
		return fmt.Errorf("type %q is none of a, b, c", r.Type)
	}
	if d.major < -1 || d.major > math.MaxUint32 || d.minor < -1 || d.minor > math.MaxUint32 {
		return fmt.Errorf("there is no device %v", d)
	}
	if r.Allow != f.allow {
		if a != 0 {
			f.exceptions[d] |= a
		}
		return nil
	}
	// v1 would silently ignore that something is taken out of an exception
	// for more than this device.
	for _, wide := range []device{{d.kind, -1, d.minor}, {d.kind, d.major, -1}, {d.kind, -1, -1}} {
		if wide != d && f.exceptions[wide]&a != 0 {
			return fmt.Errorf("%v %v cannot be taken out of the rule for %v %v", d, a, wide, f.exceptions[wide])
		}
	}
	if f.exceptions[d] &^= a; f.exceptions[d] == 0 {
		delete(f.exceptions, d)
	}
	return nil
}

// parseFilter reads v1's devices.list. Where all is allowed, exceptions are not
// listed.
func parseFilter(list string) (filter, error) {
	f := filter{exceptions: make(map[device]access)}
	for line := range strings.Lines(list) {
		bad := fmt.Errorf("devices.list: unexpected line %q", line)
		fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' || r == '\n' })
		if len(fields) != 4 || len(fields[0]) != 1 {
			return f, bad
		}
		if fields[0] == "a" {
			return filter{allow: true, exceptions: make(map[device]access)}, nil
		}
		d := device{kind: fields[0][0], major: -1, minor: -1}
		for i, n := range []*int64{&d.major, &d.minor} {
			if text := fields[1+i]; text != "*" {
				v, err := strconv.ParseUint(text, 10, 32)
				if err != nil {
					return f, bad
				}
				*n = int64(v)
			}
		}
		f.exceptions[d] |= parseAccess(fields[3])
	}
	return f, nil
}

// devicesV1 changes what is different, so that at no time more is denied than
// before or after. But where all is allowed one must start anew: exceptions
// are not told then.
func (p *plan) devicesV1(rules []specs.LinuxDeviceCgroup) {
	const controller, field = "devices", "linux.resources.devices"
	want, err := newFilter(rules)
	if err != nil {
		p.err = cmp.Or(p.err, err)
		return
	}
	if !p.has(controller) {
		p.fail(controller, "the cgroup has no devices controller")
		return
	}
	list, err := p.Read(controller, "devices.list")
	if err != nil { // and an empty list would mean that nothing is allowed
		p.err = cmp.Or(p.err, fmt.Errorf("%s: %w", field, err))
		return
	}
	now, err := parseFilter(list)
	if err != nil {
		p.err = cmp.Or(p.err, err)
		return
	}
	file := map[bool]string{true: "devices.allow", false: "devices.deny"}
	add := func(allow bool, value string) {
		p.writes = append(p.writes, Write{Controller: controller, File: file[allow], Value: value, Field: field})
	}
	if now.allow || now.allow != want.allow {
		add(want.allow, "a *:* rwm")
		now.exceptions = nil
	}
	for _, d := range now.ordered() {
		if dropped := now.exceptions[d] &^ want.exceptions[d]; dropped != 0 {
			add(want.allow, fmt.Sprintf("%v %v", d, dropped))
		}
	}
	for _, d := range want.ordered() {
		if gained := want.exceptions[d] &^ now.exceptions[d]; gained != 0 {
			add(!want.allow, fmt.Sprintf("%v %v", d, gained))
		}
	}
}

// devicesV2 sets a program instead: v2 has no files for devices.
func (p *plan) devicesV2(rules []specs.LinuxDeviceCgroup) {
	f, err := newFilter(rules)
	if err != nil {
		p.err = cmp.Or(p.err, err)
		return
	}
	p.writes = append(p.writes, Write{
		Controller: "devices", File: "(BPF program)", Value: f.String(), Field: "linux.resources.devices",
		program: f.program(),
	})
}
