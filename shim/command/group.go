package command

import (
	"errors"
	"fmt"
	"os"
)

// Containers with the same one of these in their config.json share a daemon; the
// first counts. The names are those of containerd's shim for runc.
const (
	groupAnnotation   = "io.containerd.runc.v2.group"
	sandboxAnnotation = "io.kubernetes.cri.sandbox-id"
)

// group returns the key that containers of one daemon have in common: an
// annotation of the bundle in the working directory, else the container's ID.
// A sandbox need not have a config.json.
func group(id string) (string, error) {
	f, err := os.Open("config.json")
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	var byName, bySandbox string
	err = members(f, func(key string, s *scanner) bool {
		if key != "annotations" || s.token() == 'n' { // null
			s.skip()
			return true
		}
		s.object(func(key string) bool {
			switch key {
			case groupAnnotation:
				byName = s.text()
			case sandboxAnnotation:
				bySandbox = s.text()
			default:
				s.skip()
			}
			return true
		})
		return false // the larger part, seccomp and so on, usually follows
	})
	if err != nil {
		return "", fmt.Errorf("config.json: %w", err)
	}
	switch {
	case byName != "":
		return byName, nil
	case bySandbox != "":
		return bySandbox, nil
	}
	return id, nil
}
