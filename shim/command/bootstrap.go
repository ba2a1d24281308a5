package command

import (
	"fmt"
	"io"
	"os"

	"github.com/myshim/myshim/mounts/raw"
	"github.com/myshim/myshim/shim/internal/wire"
	"github.com/myshim/myshim/shim/options"
)

// maxInput bounds what is read, as containerd's own shims do.
const maxInput = 10 << 20

// ReadInput reads what containerd writes to standard input.
func ReadInput(stdin io.Reader) ([]byte, error) {
	input, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
	if err == nil && len(input) > maxInput {
		err = fmt.Errorf("more than %d bytes", maxInput)
	}
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	return input, nil
}

// bootstrap is what containerd tells `start`, whichever way.
type bootstrap struct {
	id, namespace string
	debug         bool
	grpcAddress   string // of containerd; only used to name our socket
	ttrpcAddress  string // of containerd; the daemon publishes events there
	socketDir     string
	options       options.Options
	legacy        bool // containerd before 2.3, which wants another answer
}

// readBootstrap tells the two protocols apart. containerd since 2.3 sends a
// containerd.runtime.bootstrap.v1.BootstrapParams, older ones the bare Any of
// the options or nothing. Such an Any can pass for BootstrapParams by accident,
// so these must name the container of the command line too.
func readBootstrap(line Line, stdin io.Reader) (bootstrap, error) {
	input, err := ReadInput(stdin)
	if err != nil {
		return bootstrap{}, err
	}
	return parseBootstrap(line, input)
}

func parseBootstrap(line Line, input []byte) (bootstrap, error) {
	p, extensions, err := decodeParams(input)
	if err == nil && (p.id != line.ID || p.namespace != line.Namespace) {
		err = fmt.Errorf("they are of %q in namespace %q", p.id, p.namespace)
	}
	if err != nil {
		var o extension
		bad := o.decode(input)
		if bad == nil && !o.isOptions() && len(input) > 0 {
			bad = fmt.Errorf("their type is %q", o.typeURL)
		}
		if bad != nil {
			return bootstrap{}, fmt.Errorf("stdin holds neither BootstrapParams of %s in namespace %s (%w) nor options (%w)", line.ID, line.Namespace, err, bad)
		}
		p = bootstrap{id: line.ID, namespace: line.Namespace, legacy: true}
		extensions = []extension{o}
	}
	p.debug = p.debug || line.Debug
	if p.grpcAddress == "" {
		p.grpcAddress = line.Address
	}
	if p.ttrpcAddress == "" { // always with the older protocol, and in shimtest
		p.ttrpcAddress = os.Getenv("TTRPC_ADDRESS")
	}
	if p.socketDir == "" {
		p.socketDir = defaultSocketDir
	}
	for _, e := range extensions {
		if e.isOptions() {
			p.options, err = options.Decode(e.typeURL, e.value)
			return p, err
		}
	}
	return p, nil
}

// extension is an Any.
type extension struct {
	typeURL string
	value   []byte
}

func (e extension) isOptions() bool { return options.Known(e.typeURL) }

func (e *extension) decode(message []byte) error {
	return wire.Fields(message, func(f wire.Field) error {
		switch f.Number {
		case 1:
			f.Set(&e.typeURL)
		case 2:
			f.Set(&e.value)
		}
		return nil
	})
}

func decodeParams(message []byte) (p bootstrap, extensions []extension, err error) {
	var level int32
	err = wire.Fields(message, func(f wire.Field) error {
		switch f.Number {
		case 1:
			f.Set(&p.id)
		case 2:
			f.Set(&p.namespace)
		case 3:
			f.Set(&level)
		case 5:
			f.Set(&p.ttrpcAddress)
		case 6:
			f.Set(&p.grpcAddress)
		case 8:
			return f.Fields(func(f wire.Field) error {
				if f.Number != 1 {
					return nil
				}
				var value []byte
				f.Set(&value)
				extensions = append(extensions, extension{})
				return extensions[len(extensions)-1].decode(value)
			})
		case 9:
			f.Set(&p.socketDir)
		}
		return nil
	})
	p.debug = level <= -4 // LOG_LEVEL_DEBUG; LOG_LEVEL_INFO is 0
	return p, extensions, err
}

// mountCapabilities is an Extension with a containerd.types.MountCapabilities: what
// containerd 2.4 and newer leave to us of a root file system.
func mountCapabilities() []byte {
	var capabilities []byte
	for _, t := range raw.Types {
		capabilities = wire.AppendBytes(capabilities, 1, t)
	}
	for _, t := range raw.Transforms {
		capabilities = wire.AppendBytes(capabilities, 2, t)
	}
	value := wire.AppendBytes(nil, 1, "type.googleapis.com/containerd.types.MountCapabilities")
	value = wire.AppendBytes(value, 2, capabilities)
	return wire.AppendBytes(nil, 1, value)
}

// answer is what the caller of this protocol understands. A BootstrapResult
// says that we serve version 3 of the task API. Callers of the older protocol
// are containerd 1.6, to which all that we print is the address; 1.7, which
// would also read JSON, but refuses versions above 2; and 2.0 to 2.2, which take
// 2 or 3. Nothing they send tells one from the other, and all of them take a
// bare address for a socket of version 2; what 3 adds, members of a pod that are
// attached without running us, saves a start and loses the `delete` that cleans
// them up.
func (p bootstrap) answer(address string) []byte {
	if p.legacy {
		return []byte(address)
	}
	b := wire.AppendVarint(nil, 1, 3)
	b = wire.AppendBytes(b, 2, address)
	b = wire.AppendBytes(b, 3, "ttrpc")
	return wire.AppendBytes(b, 6, mountCapabilities())
}
