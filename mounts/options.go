package mounts

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options are the options of one mount, as mount(8) names them.
type Options struct {
	Bind      bool // bind or rbind
	Recursive bool // rbind

	Attrs       Attrs // of the mount itself
	Recursively Attrs // rro and the like: of the mount and all below it

	Super []string // flags of the superblock: sync, dirsync, mand, lazytime
	Data  []string // what the file system is to understand

	Propagation []Propagation // in order, after the mount is in place

	CopyUp bool // tmpcopyup: a tmpfs starts with what was there
	IDMap  bool // idmap or ridmap: ids are mapped by the mount
	RIDMap bool // ridmap: in the mounts below it too
}

// Attrs are attributes to set and to clear, bits of MOUNT_ATTR_* of
// mount_setattr(2). The access time policy is not a bit but a number in the bits
// of MOUNT_ATTR__ATIME; all of them are in Clear if it is set.
type Attrs struct{ Set, Clear uint64 }

func (a Attrs) empty() bool { return a.Set|a.Clear == 0 }

// Propagation is a propagation type, MS_SHARED and so on, of a mount or, if
// Recursive, of all below it too.
type Propagation struct {
	Type      uint64
	Recursive bool
	Name      string
}

// An option sets or clears attributes, of the mount or recursively, or a flag of
// the superblock, or is one of the others, for which there is a function.
type option struct {
	set, clear uint64
	super      string // flag to give to the file system
	unsuper    string // flag not to give, though an earlier option asks for it
	apply      func(*Options)
}

// options are all the options that are not data for the file system. Those of
// attributes exist in a recursive form too, with an r in front (mount(8)).
var options = map[string]option{
	"defaults": {},

	"ro":          {set: unix.MOUNT_ATTR_RDONLY},
	"rw":          {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":      {set: unix.MOUNT_ATTR_NOSUID},
	"suid":        {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":       {set: unix.MOUNT_ATTR_NODEV},
	"dev":         {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":      {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":        {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":  {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":    {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW}, // Linux 5.14
	"symfollow":   {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},

	// Not the bits but the whole number is set; relatime, the default, is 0.
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {}, // it does not say what else, and relatime is the default
	"rnorelatime":   {},

	"sync":       {super: "sync"},
	"async":      {unsuper: "sync"},
	"dirsync":    {super: "dirsync"},
	"mand":       {super: "mand"},
	"nomand":     {unsuper: "mand"},
	"lazytime":   {super: "lazytime"},
	"nolazytime": {unsuper: "lazytime"},
	"iversion":   {super: "iversion"},
	"noiversion": {unsuper: "iversion"},
	"silent":     {super: "silent"},
	"loud":       {unsuper: "silent"},

	"bind":      {apply: func(o *Options) { o.Bind = true }},
	"rbind":     {apply: func(o *Options) { o.Bind, o.Recursive = true, true }},
	"remount":   {}, // every mount is a new one
	"tmpcopyup": {apply: func(o *Options) { o.CopyUp = true }},
	"idmap":     {apply: func(o *Options) { o.IDMap = true }},
	"ridmap":    {apply: func(o *Options) { o.IDMap, o.RIDMap = true, true }},

	"private":     propagation("private", unix.MS_PRIVATE, false),
	"rprivate":    propagation("rprivate", unix.MS_PRIVATE, true),
	"slave":       propagation("slave", unix.MS_SLAVE, false),
	"rslave":      propagation("rslave", unix.MS_SLAVE, true),
	"shared":      propagation("shared", unix.MS_SHARED, false),
	"rshared":     propagation("rshared", unix.MS_SHARED, true),
	"unbindable":  propagation("unbindable", unix.MS_UNBINDABLE, false),
	"runbindable": propagation("runbindable", unix.MS_UNBINDABLE, true),
}

func propagation(name string, kind uint64, recursive bool) option {
	return option{apply: func(o *Options) {
		o.Propagation = append(o.Propagation, Propagation{kind, recursive, name})
	}}
}

// attribute says whether the option sets or clears attributes of a mount.
func (o option) attribute() bool { return o.set|o.clear != 0 }

// ParseOptions sorts the options of a mount; of contradicting ones the last
// counts. Options that start with x- or X- are for user space (mount(8)) and
// ignored. What is not known is data for the file system, which refuses it if
// it does not know it either.
func ParseOptions(list []string) Options {
	var o Options
	for _, name := range list {
		if known, ok := options[name]; ok {
			o.Attrs.add(known)
			o.super(known)
			if known.apply != nil {
				known.apply(&o)
			}
			continue
		}
		if known, ok := options[strings.TrimPrefix(name, "r")]; ok && known.attribute() {
			o.Recursively.add(known)
			continue
		}
		if name != "" && !strings.HasPrefix(strings.ToLower(name), "x-") {
			o.Data = append(o.Data, name)
		}
	}
	return o
}

// OptionNames are all options known to ParseOptions, sorted: what -info tells.
func OptionNames() []string {
	var names []string
	for name, o := range options {
		names = append(names, name)
		if o.attribute() {
			names = append(names, "r"+name)
		}
	}
	slices.Sort(names)
	return names
}

func (a *Attrs) add(o option) {
	a.Set = a.Set&^o.clear | o.set
	a.Clear = a.Clear&^o.set | o.clear
}

func (o *Options) super(known option) {
	if known.unsuper != "" {
		o.Super = slices.DeleteFunc(o.Super, func(s string) bool { return s == known.unsuper })
	}
	if known.super != "" && !slices.Contains(o.Super, known.super) {
		o.Super = append(o.Super, known.super)
	}
}

// has says whether a flag attribute is set.
func (o *Options) has(attr uint64) bool { return o.Attrs.Set&attr != 0 }

// String is the options as mount(8) would be given them, in a fixed order.
func (o Options) String() string {
	var out []string
	if o.Recursive {
		out = append(out, "recursive")
	}
	out = append(out, o.Attrs.names("")...)
	out = append(out, o.Recursively.names("r")...)
	out = append(out, o.Super...)
	for _, p := range o.Propagation {
		out = append(out, p.Name)
	}
	switch {
	case o.RIDMap:
		out = append(out, "ridmap")
	case o.IDMap:
		out = append(out, "idmap")
	}
	if o.CopyUp {
		out = append(out, "tmpcopyup")
	}
	return strings.Join(append(out, o.Data...), ",")
}

// names are the options that set or clear the attributes.
func (a Attrs) names(prefix string) []string {
	var out []string
	add := func(name string) { out = append(out, prefix+name) }
	for _, f := range []struct {
		bit     uint64
		on, off string
	}{
		{unix.MOUNT_ATTR_RDONLY, "ro", "rw"},
		{unix.MOUNT_ATTR_NOSUID, "nosuid", "suid"},
		{unix.MOUNT_ATTR_NODEV, "nodev", "dev"},
		{unix.MOUNT_ATTR_NOEXEC, "noexec", "exec"},
		{unix.MOUNT_ATTR_NODIRATIME, "nodiratime", "diratime"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", "symfollow"},
	} {
		switch {
		case a.Set&f.bit != 0:
			add(f.on)
		case a.Clear&f.bit != 0:
			add(f.off)
		}
	}
	if a.Clear&unix.MOUNT_ATTR__ATIME != 0 {
		switch a.Set & unix.MOUNT_ATTR__ATIME {
		case unix.MOUNT_ATTR_NOATIME:
			add("noatime")
		case unix.MOUNT_ATTR_STRICTATIME:
			add("strictatime")
		default:
			add("relatime")
		}
	}
	return out
}
