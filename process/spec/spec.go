package spec

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrInvalid is in every error about what a spec says.
var ErrInvalid = errors.New("invalid spec")

// fieldError is what is wrong with a field of a spec.
type fieldError struct {
	field string
	error
}

func (e *fieldError) Error() string        { return e.field + ": " + e.error.Error() }
func (e *fieldError) Is(target error) bool { return target == ErrInvalid }
func (e *fieldError) Unwrap() error        { return e.error }

// Invalid is an error about a field, e.g. "process.cwd", with a text as for
// fmt.Errorf; errors.Is knows it as ErrInvalid.
func Invalid(field, format string, args ...any) error {
	return &fieldError{field, fmt.Errorf(format, args...)}
}

// maxSize is how many bytes of config.json are read: 100 times what a big pod
// has, and far less than what hurts the shim.
const maxSize = 16 << 20

// Container is the OCI spec of a container. Root, Process and Linux are not nil.
type Container struct {
	*specs.Spec
	Bundle string // absolute path of the directory that config.json is in
	Rootfs string // absolute path of root.path
}

// document is a config.json without the parts of other operating systems:
// encoding/json would have to learn their types too, which takes a tenth of the
// time of a shim's first Create.
type document struct {
	Version     string            `json:"ociVersion"`
	Process     *specs.Process    `json:"process"`
	Root        *specs.Root       `json:"root"`
	Hostname    string            `json:"hostname"`
	Domainname  string            `json:"domainname"`
	Mounts      []specs.Mount     `json:"mounts"`
	Hooks       *specs.Hooks      `json:"hooks"`
	Annotations map[string]string `json:"annotations"`
	Linux       *specs.Linux      `json:"linux"`
}

// Load reads and checks the config.json of a bundle.
func Load(bundle string) (*Container, error) {
	path := filepath.Join(bundle, "config.json")
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	d := takeAhead(data)
	if d == nil {
		d, err = decode(data)
	}
	var c *Container
	if err == nil {
		c, err = d.check(bundle)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("%w: %s has %d MiB, the limit is %d", ErrInvalid, path, info.Size()>>20, maxSize>>20)
	}
	data := make([]byte, info.Size())
	if _, err := f.ReadAt(data, 0); err != nil && info.Size() > 0 {
		return nil, err
	}
	return data, nil
}

// ahead is what ReadAhead has read.
var ahead struct {
	mu       sync.Mutex
	data     []byte    // guarded by mu
	document *document // guarded by mu; nil when it is taken
}

// ReadAhead does what takes longest of a Load that is to come: a process's first
// document teaches encoding/json the types. It returns the seccomp profile, nil
// if there is none, and says nothing of what is wrong.
func ReadAhead(bundle string) *specs.LinuxSeccomp {
	ahead.mu.Lock()
	defer ahead.mu.Unlock()
	data, err := read(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil
	}
	d, err := decode(data)
	if err != nil {
		return nil
	}
	ahead.data, ahead.document = data, d
	if d.Linux == nil {
		return nil
	}
	return d.Linux.Seccomp
}

// takeAhead returns the document of this text, if it has been read ahead.
func takeAhead(data []byte) *document {
	ahead.mu.Lock()
	defer ahead.mu.Unlock()
	if !bytes.Equal(data, ahead.data) {
		return nil
	}
	d := ahead.document
	ahead.data, ahead.document = nil, nil
	return d
}

// Parse checks a config.json and fills in defaults. bundle is what relative
// paths are relative to.
func Parse(data []byte, bundle string) (*Container, error) {
	d, err := decode(data)
	if err != nil {
		return nil, err
	}
	return d.check(bundle)
}

func decode(data []byte) (*document, error) {
	d := new(document)
	return d, unmarshal(data, d)
}

func (d *document) check(bundle string) (*Container, error) {
	s := &specs.Spec{
		Version: d.Version, Process: d.Process, Root: d.Root, Hostname: d.Hostname, Domainname: d.Domainname,
		Mounts: d.Mounts, Hooks: d.Hooks, Annotations: d.Annotations, Linux: d.Linux,
	}
	c := &Container{Spec: s, Bundle: bundle}
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	for _, check := range []func(*Container) error{
		checkRoot, checkTop, checkNamespaces, checkMounts, checkLinux, checkSysctl, checkHooks,
	} {
		if err := check(c); err != nil {
			return nil, err
		}
	}
	if s.Process == nil {
		return nil, Invalid("process", "it is missing")
	}
	if err := checkProcess(s.Process, "process"); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseProcess checks the process of an exec.
func ParseProcess(data []byte) (*specs.Process, error) {
	p := new(specs.Process)
	if err := unmarshal(data, p); err != nil {
		return nil, err
	}
	return p, checkProcess(p, "process")
}

// unmarshal is json.Unmarshal with errors that name the field or the place.
func unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return Invalid(cmp.Or(wrong.Field, "the document"), "a JSON %s does not fit into a %s", wrong.Value, wrong.Type)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%w: %w, at byte %d", ErrInvalid, err, syntax.Offset)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// Namespace is the entry for a kind of namespace, nil if the container shares
// that one with the shim.
func (c *Container) Namespace(kind specs.LinuxNamespaceType) *specs.LinuxNamespace {
	i := slices.IndexFunc(c.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
	if i < 0 {
		return nil
	}
	return &c.Linux.Namespaces[i]
}

// Has says whether the container has a namespace of the kind that is not the
// shim's: a new one, or one joined by path.
func (c *Container) Has(kind specs.LinuxNamespaceType) bool { return c.Namespace(kind) != nil }

// New says whether a namespace of the kind is made for the container.
func (c *Container) New(kind specs.LinuxNamespaceType) bool {
	ns := c.Namespace(kind)
	return ns != nil && ns.Path == ""
}

// Environment is process.env as the payload gets it: of variables that are set
// twice the last one counts, and an empty HOME is as none. home says whether
// HOME is set.
func Environment(env []string) (out []string, home bool) {
	seen := make(map[string]bool, len(env))
	for _, kv := range slices.Backward(env) {
		key, value, _ := strings.Cut(kv, "=")
		if seen[key] {
			continue
		}
		seen[key] = true
		if key == "HOME" {
			if value == "" {
				continue
			}
			home = true
		}
		out = append(out, kv)
	}
	slices.Reverse(out)
	return out, home
}
