package command

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
)

// Line is a command line: flags first, then the action, then its arguments.
type Line struct {
	Action    string   // start, delete or another; none for the daemon
	Args      []string // of the action, after it
	Namespace string
	ID        string
	Address   string // of containerd's gRPC socket
	Bundle    string // with `delete`; the working directory is the same
	Debug     bool
	Version   bool
	Info      bool
	Help      bool
}

// Parse reads the arguments after the program's name. Flags are -x or --x, with
// the value behind = or in the next argument, as in package flag. A flag that
// is not known is skipped, since a newer containerd may have one: what follows
// it is taken for its value, unless that is the next flag or the last argument,
// which is where containerd puts the action.
func Parse(args []string) (Line, error) {
	var line Line
	values := func(name string) *string {
		switch name {
		case "namespace":
			return &line.Namespace
		case "id":
			return &line.ID
		case "address":
			return &line.Address
		case "bundle":
			return &line.Bundle
		case "publish-binary", "socket", "debug-socket":
			return new(string) // nothing of ours depends on them
		}
		return nil
	}
	switches := func(name string) *bool {
		switch name {
		case "debug":
			return &line.Debug
		case "v", "version":
			return &line.Version
		case "info":
			return &line.Info
		case "h", "help":
			return &line.Help
		}
		return nil
	}
	for len(args) > 0 {
		arg := args[0]
		if len(arg) < 2 || arg[0] != '-' {
			break
		}
		args = args[1:]
		if arg == "--" {
			break
		}
		name := strings.TrimPrefix(arg[1:], "-")
		name, value, hasValue := strings.Cut(name, "=")
		if to := switches(name); to != nil {
			*to = true
			if hasValue {
				b, err := strconv.ParseBool(value)
				if err != nil {
					return line, fmt.Errorf("flag %s is neither true nor false", arg)
				}
				*to = b
			}
			continue
		}
		to := values(name)
		if to == nil {
			if !hasValue && len(args) > 1 && !strings.HasPrefix(args[0], "-") {
				args = args[1:]
			}
			continue
		}
		if !hasValue {
			if len(args) == 0 {
				return line, fmt.Errorf("flag %s needs a value", arg)
			}
			value, args = args[0], args[1:]
		}
		*to = value
	}
	if len(args) > 0 {
		line.Action, line.Args = args[0], args[1:]
	}
	return line, nil
}

// Daemon tells whether it is that of the daemon: all others do one thing, and end.
func (l Line) Daemon() bool { return l.Action == "" && !l.Version && !l.Info && !l.Help }

// Check tells what an action of containerd cannot do without.
func (l Line) Check() error {
	if l.ID == "" {
		return errors.New("-id is missing")
	}
	if l.Namespace == "" {
		return errors.New("-namespace is missing")
	}
	return nil
}

// Exit ends the process: containerd puts what an error says into its own one.
func Exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", path.Base(os.Args[0]), err)
	os.Exit(1)
}
