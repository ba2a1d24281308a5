package stdio

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInvalid is in the chain of errors about what was asked for: a malformed
// URI, an unknown scheme, a path that cannot be a stream.
var ErrInvalid = errors.New("invalid stdio")

type kind int

const (
	null   kind = iota
	plain       // a FIFO, or a file that exists
	file        // file://: created if missing
	binary      // binary:// and binary-v2://
)

// A target is a parsed URI.
type target struct {
	kind   kind
	path   string   // absolute
	args   []string // binary: key and value in turns, sorted by key
	strict bool     // binary-v2: ready is a byte; an EOF is not enough
}

// targets parses the URIs of r. stderr is ignored with a terminal, and goes
// to stdout's log if it has no URI of its own.
func targets(r Request) (in, out, err target, _ error) {
	var errs [3]error
	in, errs[0] = parse("stdin", r.Stdin)
	if in.kind == file || in.kind == binary {
		errs[0] = invalid("stdin", r.Stdin, "a log cannot be read from")
	}
	out, errs[1] = parse("stdout", r.Stdout)
	switch {
	case r.Terminal:
	case r.Stderr == "" && (out.kind == file || out.kind == binary):
		err = out
	default:
		err, errs[2] = parse("stderr", r.Stderr)
		if err.kind == binary && r.Stderr != r.Stdout {
			errs[2] = invalid("stderr", r.Stderr, "a logger must be stdout's too")
		}
	}
	return in, out, err, errors.Join(errs[:]...)
}

// parse understands what containerd passes in stdin, stdout and stderr. What
// starts with a slash is a path, whatever characters it has.
func parse(stream, uri string) (target, error) {
	t := target{kind: plain, path: uri}
	if uri == "" {
		return target{}, nil
	}
	if uri[0] != '/' {
		u, err := url.Parse(uri)
		if err != nil {
			return target{}, invalid(stream, uri, errors.Unwrap(err).Error())
		}
		t.path = u.Path
		switch u.Scheme {
		case "":
			return target{}, invalid(stream, uri, "not an absolute path")
		case "fifo":
		case "file":
			t.kind = file
		case "binary", "binary-v2":
			t.kind, t.strict = binary, u.Scheme == "binary-v2"
			query, err := url.ParseQuery(u.RawQuery)
			if err != nil {
				return target{}, invalid(stream, uri, err.Error())
			}
			for _, key := range slices.Sorted(maps.Keys(query)) {
				t.args = append(t.args, key, query[key][0])
			}
		default:
			return target{}, invalid(stream, uri, fmt.Sprintf("unknown STDIO scheme %.20q", u.Scheme))
		}
		if u.Host != "" && u.Host != "localhost" {
			return target{}, invalid(stream, uri, "the path must be absolute: "+u.Scheme+":///...")
		}
	}
	switch {
	case !strings.HasPrefix(t.path, "/"):
		return target{}, invalid(stream, uri, "the path must be absolute")
	case len(t.path) >= unix.PathMax:
		return target{}, invalid(stream, uri, "the path is too long")
	case strings.ContainsRune(t.path+strings.Join(t.args, ""), 0):
		return target{}, invalid(stream, uri, "NUL inside")
	}
	return t, nil
}

func invalid(stream, uri, why string) error {
	return fmt.Errorf("%s %.200q: %w: %s", stream, uri, ErrInvalid, why)
}
