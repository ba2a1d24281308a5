// Package options answers: what did the administrator configure for this
// runtime?
//
// Options reach the shim in an Any which is absent, a containerd.runc.v1.Options
// (runtime type io.containerd.runc.v2 with our binary as runtime_path, or `ctr`
// for that type), or a runtimeoptions.v1.Options with a piece of TOML or the
// path of a file of it (every other runtime type, under CRI and `ctr
// --runtime-config-path`). The names are the same in all of them, so that a
// configuration made for runc can be moved.
package options

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/myshim/myshim/shim/internal/wire"
)

// Options are what an administrator can configure; the zero value is what the
// absence of options means.
type Options struct {
	NoPivotRoot   bool   // MS_MOVE and chroot instead of pivot_root, for a root file system in an initramfs
	NoNewKeyring  bool   // keep the session keyring of the shim
	ShimCgroup    string // cgroup that `start` puts the daemon in
	IOUID         uint32 // owner of the stdio pipes
	IOGID         uint32 // group of the stdio pipes
	SystemdCgroup bool   // cgroupsPath is slice:prefix:name, made by systemd
	VisibleRootfs bool   // the root file system is mounted on the host too, at rootfs in the bundle

	// What is of runc, and has no effect here: see Warnings.
	BinaryName    string // the OCI runtime to run
	Root          string // directory of its state
	CriuImagePath string // checkpoint to restore from
	CriuWorkPath  string // where criu leaves its logs
}

// field has the number of a field in containerd.runc.v1.Options, and its name
// as it is written in config.toml.
type field struct {
	number uint64
	name   string
	value  any // *bool, *string or *uint32; nil if it is accepted and ignored
}

func (o *Options) fields() []field {
	return []field{
		{1, "NoPivotRoot", &o.NoPivotRoot},
		{2, "NoNewKeyring", &o.NoNewKeyring},
		{3, "ShimCgroup", &o.ShimCgroup},
		{4, "IoUid", &o.IOUID},
		{5, "IoGid", &o.IOGID},
		{6, "BinaryName", &o.BinaryName},
		{7, "Root", &o.Root},
		{8, "CriuPath", nil}, // gone since containerd 2.0, still in configurations
		{9, "SystemdCgroup", &o.SystemdCgroup},
		{10, "CriuImagePath", &o.CriuImagePath},
		{11, "CriuWorkPath", &o.CriuWorkPath},
		{0, "VisibleRootfs", &o.VisibleRootfs}, // of this runtime only, so it has no number
		// CRI passes the whole table, with the fields of runtimeoptions.v1.Options.
		{0, "TypeUrl", nil},
		{0, "ConfigPath", nil},
		{0, "ConfigBody", nil},
	}
}

const (
	runcType    = "containerd.runc.v1.Options"
	runtimeType = "runtimeoptions.v1.Options"

	maxFile = 1 << 20
)

// Known tells whether a type URL is one that Decode understands.
func Known(typeURL string) bool {
	name := typeName(typeURL)
	return name == runcType || name == runtimeType
}

// typeName is the last element of a type URL: whether the prefix is
// "type.googleapis.com/" or nothing depends on who made the Any.
func typeName(typeURL string) string {
	return typeURL[strings.LastIndexByte(typeURL, '/')+1:]
}

// Decode reads the options out of an Any; one that is absent has neither type
// nor value.
func Decode(typeURL string, value []byte) (Options, error) {
	var o Options
	var err error
	switch typeName(typeURL) {
	case "":
		if len(value) > 0 {
			err = fmt.Errorf("a value of %d bytes without a type", len(value))
		}
	case runcType:
		err = o.decodeRunc(value)
	case runtimeType:
		err = o.decodeRuntime(value)
	default:
		err = fmt.Errorf("type %q is neither %s nor %s", typeURL, runcType, runtimeType)
	}
	if err != nil {
		return Options{}, fmt.Errorf("options: %w", err)
	}
	return o, nil
}

func (o *Options) decodeRunc(message []byte) error {
	fields := o.fields()
	return wire.Fields(message, func(f wire.Field) error {
		for _, known := range fields {
			if known.number == f.Number {
				f.Set(known.value)
			}
		}
		return nil
	})
}

func (o *Options) decodeRuntime(message []byte) error {
	var file, body string
	err := wire.Fields(message, func(f wire.Field) error {
		switch f.Number {
		case 2:
			f.Set(&file)
		case 3:
			f.Set(&body)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if file == "" {
		return o.decodeTOML(body)
	}
	if body, err = read(file); err != nil {
		return err
	}
	if err := o.decodeTOML(body); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func read(file string) (string, error) {
	if !path.IsAbs(file) {
		return "", fmt.Errorf("config_path %q is not absolute", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("%s: more than %d bytes", file, maxFile)
	}
	return string(b), nil
}

// Warnings are for the log: options which were set and have no effect.
func (o Options) Warnings() []string {
	var warnings []string
	for _, ignored := range []struct{ name, value, why string }{
		{"BinaryName", o.BinaryName, "this shim is the runtime itself"},
		{"Root", o.Root, "the state of a container is in its bundle"},
		{"CriuImagePath", o.CriuImagePath, "there are no checkpoints"},
		{"CriuWorkPath", o.CriuWorkPath, "there are no checkpoints"},
	} {
		if ignored.value != "" {
			warnings = append(warnings, fmt.Sprintf("option %s %q is ignored: %s", ignored.name, ignored.value, ignored.why))
		}
	}
	return warnings
}
