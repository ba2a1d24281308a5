package kernel

import "testing"

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"5.15.0": true, "5.15": true, "5.15.0-91-generic": true, "6.1.0-18-amd64": true, "6.18-rc3": true, "10.0.1": true,
		"5.14.0-427.el9": false, "5.4.0": false, "4.19.0": false, "": false,
	} {
		if got := atLeast(release, 5, 15); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
	if err := Supported(); err != nil { // or no other test is worth anything
		t.Error(err)
	}
}
