package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var fileApplets = []applet{
	{"stat", "PATH...: mode, owner, device, target; links are not followed", func(args []string) int {
		all := map[string]fileInfo{}
		for _, path := range args {
			all[path] = lstat(path)
		}
		return printJSON(all)
	}},
	{"list", "DIR: stat of everything below", func(args []string) int { return printJSON(list(args[0])) }},
	{"statfs", "PATH...: type, flags, size", func(args []string) int {
		all := map[string]any{}
		for _, path := range args {
			all[path] = statfs(path)
		}
		return printJSON(all)
	}},
	{"read", "PATH...: bytes that can be read (of the first 64 KiB), or the errno", func(args []string) int {
		all := map[string]any{}
		for _, path := range args {
			all[path] = readable(path)
		}
		return printJSON(all)
	}},
	{"write", "PATH...: may a file be written, or made in a directory?", func(args []string) int {
		all := map[string]string{}
		for _, path := range args {
			all[path] = writable(path)
		}
		return printJSON(all)
	}},
	{"put", "PATH TEXT", func(args []string) int {
		return check(os.WriteFile(args[0], []byte(args[1]), 0o644))
	}},
	{"mkdir", "PATH", func(args []string) int { return check(os.MkdirAll(args[0], 0o755)) }},
	{"wait-for", "PATH: until it exists", func(args []string) int {
		for {
			if _, err := os.Lstat(args[0]); err == nil {
				return 0
			}
			time.Sleep(time.Millisecond)
		}
	}},
	{"racer", "A B SECONDS: exchange two names as fast as the kernel does", racer},
}

type fileInfo struct {
	Mode   string
	Owner  string
	Device string `json:",omitempty"`
	Target string `json:",omitempty"`
	Error  string `json:",omitempty"`
}

func lstat(path string) fileInfo {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileInfo{Error: outcome(err)}
	}
	info := fileInfo{Mode: fmt.Sprintf("%#o", st.Mode), Owner: fmt.Sprintf("%d:%d", st.Uid, st.Gid)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		info.Target, _ = os.Readlink(path)
	case unix.S_IFCHR, unix.S_IFBLK:
		info.Device = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return info
}

func list(root string) map[string]fileInfo {
	all := map[string]fileInfo{}
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			all[path] = fileInfo{Error: outcome(err)}
			return nil
		}
		all[path] = lstat(path)
		return nil
	})
	return all
}

func statfs(path string) any {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return outcome(err)
	}
	return map[string]string{"type": fmt.Sprintf("%#x", st.Type), "flags": fmt.Sprintf("%#x", st.Flags), "bytes": strconv.FormatInt(int64(st.Blocks)*st.Bsize, 10)}
}

func readable(path string) any {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 1<<16)
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EISDIR) {
		names, err := os.ReadDir(path)
		if err != nil {
			return outcome(err)
		}
		return fmt.Sprintf("%d entries", len(names))
	}
	if err != nil {
		return outcome(err)
	}
	return n
}

// Writable leaves nothing behind and changes no content: an open for writing
// is enough for a file, a nameless file for a directory.
func writable(path string) string {
	flags := unix.O_WRONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		f, err := os.CreateTemp(path, ".probe")
		if err != nil {
			return outcome(err)
		}
		f.Close()
		return outcome(os.Remove(f.Name()))
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return outcome(err)
	}
	unix.Close(fd)
	return "ok"
}

func racer(args []string) int {
	end := time.Now().Add(durationArg(args, 2, time.Second))
	n := 0
	for time.Now().Before(end) {
		for range 100 {
			if err := unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE); err == nil {
				n++
			}
		}
	}
	fmt.Println(n)
	return 0
}
