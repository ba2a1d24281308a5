// Testbox is the one program in the images of the tests: small, static, and
// able to do and to tell whatever a test wants to know of the inside of a
// container. It is called by its own name with the applet as first argument,
// or by a link with the applet's name.
//
// What a test compares is printed as JSON; a probe prints the name of the
// errno that it got, or "ok".
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type applet struct {
	name  string
	usage string
	run   func(args []string) int
}

// In files of the same names: what they are about.
var groups = [][]applet{streamApplets, loadApplets, signalApplets, reportApplets, fileApplets, mountApplets, netApplets, ttyApplets, probeApplets, hostApplets, hookApplets}

func main() {
	args := os.Args
	if strings.HasPrefix(filepath.Base(args[0]), "testbox") {
		args = args[1:]
	}
	if len(args) == 0 {
		usage()
	}
	os.Exit(call(filepath.Base(args[0]), args[1:]))
}

// call runs one applet, and "all A -- B -- C" one after the other until one
// of them fails: what several programs would do, in one process.
func call(name string, args []string) int {
	if name == "all" {
		for _, cmd := range split(args, "--") {
			if code := call(cmd[0], cmd[1:]); code != 0 {
				return code
			}
		}
		return 0
	}
	if name == "sh" { // "sh -c APPLET:ARG:…": what health checks are run by
		words := strings.FieldsFunc(args[len(args)-1], func(r rune) bool { return r == ':' || r == ' ' })
		name, args = words[0], words[1:]
	}
	for _, g := range groups {
		for _, a := range g {
			if a.name == name {
				return a.run(args)
			}
		}
	}
	fmt.Fprintf(os.Stderr, "testbox: no applet %q\n", name)
	return 125
}

func usage() {
	for _, g := range groups {
		for _, a := range g {
			fmt.Println(strings.TrimSpace(a.name + " " + a.usage))
		}
	}
	os.Exit(125)
}

func split(args []string, sep string) [][]string {
	var cmds [][]string
	for {
		i := slices.Index(args, sep)
		if i < 0 {
			return append(cmds, args)
		}
		cmds, args = append(cmds, args[:i]), args[i+1:]
	}
}

// Outcome is what a probe prints: "ok", the errno's name, or the error's text.
func outcome(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		if errno == 0 {
			return "ok"
		}
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
	}
	return err.Error()
}

// Check prints a failure; the applet ends with 1.
func check(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbox:", err)
		return 1
	}
	return 0
}

func printJSON(v any) int {
	out, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return check(err)
	}
	_, err = fmt.Printf("%s\n", out)
	return check(err)
}

// Int reads the i-th argument; testbox ends when it isn't a number.
func intArg(args []string, i int, otherwise int64) int64 {
	if i >= len(args) {
		return otherwise
	}
	n, err := strconv.ParseInt(args[i], 0, 64)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testbox: %q is no number\n", args[i])
		os.Exit(125)
	}
	return n
}

// Duration reads the i-th argument, in seconds or as "inf".
func durationArg(args []string, i int, otherwise time.Duration) time.Duration {
	if i >= len(args) {
		return otherwise
	}
	if args[i] == "inf" {
		return 1 << 62
	}
	s, err := strconv.ParseFloat(args[i], 64)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testbox: %q is no number of seconds\n", args[i])
		os.Exit(125)
	}
	return time.Duration(s * float64(time.Second))
}
