package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

var mountApplets = []applet{
	{"mountinfo", "", func([]string) int { return cat([]string{"/proc/self/mountinfo"}) }},
	{"mount", "TYPE SOURCE DEST FLAG,FLAG... [DATA]: what comes of it", func(args []string) int {
		data := ""
		if len(args) > 4 {
			data = args[4]
		}
		fmt.Println(outcome(unix.Mount(args[1], args[2], args[0], mountFlags(args[3]), data)))
		return 0
	}},
	{"umount", "DEST: what comes of it", func(args []string) int {
		fmt.Println(outcome(unix.Unmount(args[0], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)))
		return 0
	}},
}

func mountFlags(words string) uintptr {
	known := map[string]uintptr{
		"": 0, "ro": unix.MS_RDONLY, "rw": 0, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC, "remount": unix.MS_REMOUNT, "move": unix.MS_MOVE,
		"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
		"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	}
	var flags uintptr
	for _, word := range strings.Split(words, ",") {
		flags |= known[word]
	}
	return flags
}
