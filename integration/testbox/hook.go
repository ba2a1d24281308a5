package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Hooks of a container, which the runtime runs on the host.
var hookApplets = []applet{
	{"hook-state", "DIR NAME: keep the state that a hook is told, in DIR/NAME", func(args []string) int {
		state, err := io.ReadAll(os.Stdin)
		if err == nil {
			note(args[0], args[1], string(state))
		}
		return check(err)
	}},
	{"hook-net", "DIR SYSCTL VALUE: set one of net.ipv4 in the container's network namespace; keep the state in DIR/net", hookNet},
	{"hook-mount", "SOURCE DEST: bind a file of the host into the container's root", hookMount},
}

type state struct {
	Pid    int    `json:"pid"`
	Bundle string `json:"bundle"`
}

// enter joins a namespace of the container, from here on and for this thread.
func enter(s state, name string, kind int) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", s.Pid, name))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), kind)
}

func hookNet(args []string) int {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return check(err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return check(err)
	}
	if err := enter(s, "net", unix.CLONE_NEWNET); err != nil {
		return check(err)
	}
	note(args[0], "net", string(text))
	return check(os.WriteFile("/proc/thread-self/root/proc/sys/net/ipv4/"+args[1], []byte(args[2]), 0))
}

// hookMount finds the root as nvidia-container-cli does: where config.json says
// that it is, in the mount namespace of the pid.
func hookMount(args []string) int {
	var s state
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return check(err)
	}
	text, err := os.ReadFile(filepath.Join(s.Bundle, "config.json"))
	if err != nil {
		return check(err)
	}
	var config struct {
		Root struct {
			Path string `json:"path"`
		} `json:"root"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return check(err)
	}
	root := config.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(s.Bundle, root)
	}
	if err := enter(s, "mnt", unix.CLONE_NEWNS); err != nil {
		return check(err)
	}
	dest := filepath.Join(root, args[1])
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return check(err)
	}
	if err := os.WriteFile(dest, nil, 0o644); err != nil {
		return check(err)
	}
	return check(unix.Mount(args[0], dest, "", unix.MS_BIND, ""))
}
