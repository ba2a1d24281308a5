package mounts

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"defaults", ""},
		{"ro", "ro"},
		{"ro,rw", "rw"},
		{"rw,ro", "ro"},
		{"nosuid,nodev,noexec", "nosuid,nodev,noexec"},
		{"nosuid,suid", "suid"},
		{"noatime", "noatime"},
		{"noatime,relatime", "relatime"},
		{"strictatime,nodiratime", "nodiratime,strictatime"},
		{"rro", "rro"},
		{"rro,rrw", "rrw"},
		{"rnoatime,rnosuid", "rnosuid,rnoatime"},
		{"strictatime,norelatime", "strictatime"},
		{"ro,rro", "ro,rro"},
		{"sync,dirsync", "sync,dirsync"},
		{"sync,async", ""},
		{"rbind,rprivate", "recursive,rprivate"},
		{"bind,shared,rslave", "shared,rslave"},
		{"tmpcopyup,size=1m", "tmpcopyup,size=1m"},
		{"ridmap", "ridmap"},
		{"x-systemd.automount,X-foo,mode=755", "mode=755"},
		{"nosymfollow", "nosymfollow"},
		{"resuid=5,rsync", "resuid=5,rsync"}, // data: r in front of what is no attribute
	} {
		if got := ParseOptions(strings.Split(test.in, ",")).String(); got != test.want {
			t.Errorf("%q is %q, want %q", test.in, got, test.want)
		}
	}
	if o := ParseOptions([]string{"rbind"}); !o.Bind || !o.Recursive {
		t.Errorf("rbind: %+v", o)
	}
}

// What mount_setattr(2) demands of every combination.
func FuzzParseOptions(f *testing.F) {
	f.Add("ro,noatime,relatime,rnodiratime,rstrictatime")
	f.Add("nodiratime,diratime,ratime,atime")
	f.Fuzz(func(t *testing.T, text string) {
		o := ParseOptions(strings.Split(text, ","))
		for _, a := range []Attrs{o.Attrs, o.Recursively} {
			if a.Set&^unix.MOUNT_ATTR__ATIME&a.Clear != 0 {
				t.Errorf("%q sets and clears %#x", text, a.Set&a.Clear)
			}
			if atime := a.Clear & unix.MOUNT_ATTR__ATIME; atime != 0 && atime != unix.MOUNT_ATTR__ATIME {
				t.Errorf("%q clears a part of the atime policy, %#x", text, atime)
			}
			if a.Set&unix.MOUNT_ATTR__ATIME != 0 && a.Clear&unix.MOUNT_ATTR__ATIME == 0 {
				t.Errorf("%q sets an atime policy without clearing the one before", text)
			}
		}
	})
}

func TestOptionNames(t *testing.T) {
	names := OptionNames()
	for _, want := range []string{"ro", "rro", "rbind", "rnosymfollow", "tmpcopyup", "idmap"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, not := range []string{"rsync", "rdefaults"} {
		if slices.Contains(names, not) {
			t.Errorf("there is no %s", not)
		}
	}
}

func TestSplitOptions(t *testing.T) {
	got := splitOptions([]string{`size=1m,mode=755`, `context="a:b:c0,c1"`, ""})
	want := []string{"size=1m", "mode=755", `context="a:b:c0,c1"`}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
