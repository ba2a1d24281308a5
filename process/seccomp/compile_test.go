package seccomp

import (
	"testing"
)

// compare tries a filter against the meaning of its profile.
func compare(t *testing.T, m *meaning, f *Filter) {
	t.Helper()
	run, wrong := machine(t, f.Program), 0
	m.calls(func(c call) {
		if got, want := run(c), m.action(c); got != want {
			if wrong++; wrong < 10 {
				t.Errorf("%#x nr %d (%#x) args %#x: %#x, want %#x", c.Audit, c.Nr, c.Nr, c.Args, got, want)
			}
		}
	})
}

func TestProfiles(t *testing.T) {
	for name, p := range profiles(t) {
		t.Run(name, func(t *testing.T) {
			f, err := compile(p, nativeOf(name))
			if err != nil {
				t.Fatal(err)
			}
			compare(t, meaningOf(p, nativeOf(name)), f)
		})
	}
}
