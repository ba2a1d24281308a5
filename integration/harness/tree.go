package harness

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is one entry of a root file system. Mode has the type bits of io/fs.
type File struct {
	Path     string // without a leading slash
	Mode     fs.FileMode
	Link     string // of a symlink
	Data     []byte
	UID, GID int
	Major    int64 // of a device
	Minor    int64
}

// Tree is what a root file system holds, in an order in which it can be made.
type Tree []File

// Directory is one with these permissions, of root.
func Directory(path string, mode fs.FileMode) File {
	return File{Path: path, Mode: fs.ModeDir | mode}
}

// Symlink at path leads to another.
func Symlink(path, to string) File {
	return File{Path: path, Mode: fs.ModeSymlink | 0o777, Link: to}
}

// Text is a regular file of root.
func Text(path string, mode fs.FileMode, text string) File {
	return File{Path: path, Mode: mode, Data: []byte(text)}
}

// With is t with further files; one of the same path replaces it, in place.
func (t Tree) With(files ...File) Tree {
	t = slices.Clone(t)
	for _, f := range files {
		if i := slices.IndexFunc(t, func(old File) bool { return old.Path == f.Path }); i >= 0 {
			t[i] = f
		} else {
			t = append(t, f)
		}
	}
	return t
}

// Without is t less these paths and what is below them.
func (t Tree) Without(paths ...string) Tree {
	return slices.DeleteFunc(slices.Clone(t), func(f File) bool {
		return slices.ContainsFunc(paths, func(p string) bool { return f.Path == p || strings.HasPrefix(f.Path, p+"/") })
	})
}

// Base is the root file system of nearly all tests: testbox, some links to it,
// still and its like, users and groups, and files whose owners and modes tell something.
func Base() (Tree, error) {
	testbox, err := os.ReadFile(Bin("testbox"))
	if err != nil {
		return nil, fmt.Errorf("%w (go run ./tools/build makes it)", err)
	}
	t := Tree{
		Directory("bin", 0o755), {Path: "bin/testbox", Mode: 0o755, Data: testbox}, {Path: "bin/still", Mode: 0o755, Data: Still()},
		{Path: "bin/quick", Mode: 0o755, Data: Quick()}, {Path: "bin/hello", Mode: 0o755, Data: Hello()},
		Directory("dev", 0o755), Directory("proc", 0o755), Directory("sys", 0o755),
		Directory("etc", 0o755),
		Text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		Text("etc/group", 0o644, "root:x:0:\nuser:x:1000:\nextra:x:2000:user\nmore:x:2001:user\n"),
		Text("etc/hosts", 0o644, "127.0.0.1 localhost\n"), Text("etc/hostname", 0o644, "image\n"), Text("etc/resolv.conf", 0o644, ""),
		Text("etc/secret", 0o600, "secret\n"), Text("etc/not-executable", 0o644, "#!/bin/testbox\n"),
		Text("bin/no-interpreter", 0o755, "#!/bin/missing\n"), Text("bin/garbage", 0o755, "neither ELF nor script\n"),
		Directory("home", 0o755), {Path: "home/user", Mode: fs.ModeDir | 0o700, UID: 1000, GID: 1000},
		Directory("root", 0o700), Directory("run", 0o755), {Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		Directory("var", 0o755), Symlink("var/run", "/run"), Directory("data", 0o751), Directory("work", 0o755),
		{Path: "data/owned", Mode: 0o640, UID: 1000, GID: 2000, Data: []byte("owned\n")},
	}
	for _, name := range []string{"cat", "echo", "false", "sleep", "true"} {
		t = append(t, Symlink("bin/"+name, "testbox"))
	}
	return t, nil
}

// Tar writes t as an image's layer.
func (t Tree) Tar(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, f := range t {
		h := tar.Header{
			Name: f.Path, Mode: int64(f.Mode.Perm()), Uid: f.UID, Gid: f.GID,
			Size: int64(len(f.Data)), ModTime: time.Unix(1, 0), Linkname: f.Link, Devmajor: f.Major, Devminor: f.Minor,
			Typeflag: tar.TypeReg,
		}
		for bit, mode := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
			if f.Mode&bit != 0 {
				h.Mode |= mode
			}
		}
		switch f.Mode.Type() {
		case fs.ModeDir:
			h.Typeflag = tar.TypeDir
		case fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
		case fs.ModeNamedPipe:
			h.Typeflag = tar.TypeFifo
		case fs.ModeDevice:
			h.Typeflag = tar.TypeBlock
		case fs.ModeDevice | fs.ModeCharDevice:
			h.Typeflag = tar.TypeChar
		}
		if err := tw.WriteHeader(&h); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if _, err := tw.Write(f.Data); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

// Write makes t below dir, which must be empty: links in t are not followed
// only because they come after what they could lead astray.
func (t Tree) Write(dir string) error {
	for _, f := range t {
		path := filepath.Join(dir, f.Path)
		var err error
		switch f.Mode.Type() {
		case 0:
			err = os.WriteFile(path, f.Data, 0o600)
		case fs.ModeDir:
			err = os.Mkdir(path, 0o700)
		case fs.ModeSymlink:
			err = os.Symlink(f.Link, path)
		case fs.ModeNamedPipe:
			err = unix.Mkfifo(path, 0o600)
		case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
			kind := uint32(unix.S_IFBLK)
			if f.Mode&fs.ModeCharDevice != 0 {
				kind = unix.S_IFCHR
			}
			err = unix.Mknod(path, kind|0o600, int(unix.Mkdev(uint32(f.Major), uint32(f.Minor))))
		default:
			err = errors.ErrUnsupported
		}
		if err == nil {
			err = os.Lchown(path, f.UID, f.GID)
		}
		if err == nil && f.Mode.Type() != fs.ModeSymlink {
			err = os.Chmod(path, f.Mode) // after chown, which clears set-id bits
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
