package launch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/script"
)

// endMark stands after the last instruction of the init.
const endMark = "end of the init."

// What the assembly knows of package script, by go_asm.h.
//
//nolint:unused // in Go
const (
	base       = script.Base
	size       = script.Size
	reportSize = script.ReportSize
	controlFD  = script.ControlFD
	scriptFD   = script.ScriptFD
)

// loadAddress is where the init's one segment goes; it is below the image of
// the script, and a multiple of every page size.
const loadAddress = 0x400000

// Program is an ELF file with the init in it: a header, one segment to be
// read and executed, no data, no stack to speak of, 400 bytes in all.
func Program() []byte {
	const headers = 64 + 56
	text := initCode()
	order := binary.LittleEndian
	machine := map[string]uint16{"amd64": 62 /* EM_X86_64 */, "arm64": 183 /* EM_AARCH64 */}[runtime.GOARCH]

	f := make([]byte, headers, headers+len(text))
	copy(f, "\x7fELF\x02\x01\x01")               // 64 bit, little endian, version 1
	order.PutUint16(f[16:], 2)                   // e_type: ET_EXEC
	order.PutUint16(f[18:], machine)             // e_machine
	order.PutUint32(f[20:], 1)                   // e_version
	order.PutUint64(f[24:], loadAddress+headers) // e_entry
	order.PutUint64(f[32:], 64)                  // e_phoff
	order.PutUint16(f[52:], 64)                  // e_ehsize
	order.PutUint16(f[54:], 56)                  // e_phentsize
	order.PutUint16(f[56:], 1)                   // e_phnum

	segment := f[64:]
	order.PutUint32(segment, 1)                              // p_type: PT_LOAD
	order.PutUint32(segment[4:], 5)                          // p_flags: PF_R|PF_X
	order.PutUint64(segment[16:], loadAddress)               // p_vaddr
	order.PutUint64(segment[24:], loadAddress)               // p_paddr
	order.PutUint64(segment[32:], uint64(headers+len(text))) // p_filesz
	order.PutUint64(segment[40:], uint64(headers+len(text))) // p_memsz
	order.PutUint64(segment[48:], 0x10000)                   // p_align
	return append(f, text...)
}

// program is the init as a file that can be executed and never changed: what a
// container may see of us through /proc/PID/exe (CVE-2019-5736). It is made at
// the first use, and kept for the life of the process.
var program = sync.OnceValues(func() (*os.File, error) {
	f, err := sealedMemory(Program())
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) {
		f, err = unlinkedFile(Program())
	}
	if err != nil {
		return nil, fmt.Errorf("keep the init in memory: %w", err)
	}
	return f, nil
})

// Prepare makes the file. What goes wrong, Start says.
func Prepare() { _, _ = program() }

// sealedMemory returns a memfd with the content, sealed against any change.
func sealedMemory(content []byte) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("myshim-init", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // MFD_EXEC came with Linux 6.3
		fd, err = unix.MemfdCreate("myshim-init", flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:myshim-init")
	if _, err := f.Write(content); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(os.NewSyscallError("seal", err), f.Close())
	}
	return f, nil
}

// unlinkedFile is for hosts with vm.memfd_noexec=2: a file without a name, of
// which only a read-only descriptor is left. It is made in the first of the
// root-only directories from which programs may be run.
func unlinkedFile(content []byte) (*os.File, error) {
	var failures []error
	for _, dir := range []string{"/run", "/var/lib", "/root"} {
		f, err := unlinkedFileIn(dir, content)
		if err == nil {
			return f, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

func unlinkedFileIn(dir string, content []byte) (*os.File, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if fs.Flags&unix.ST_NOEXEC != 0 {
		return nil, fmt.Errorf("%s is mounted noexec", dir)
	}
	w, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_WRONLY, 0o500)
	if err != nil {
		return nil, err
	}
	defer w.Close() // execve gives ETXTBSY while it is open
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()))
}

// initCode is a copy of the init's machine code.
func initCode() []byte {
	text := initMemory()
	end := bytes.Index(text, []byte(endMark))
	if end < 0 {
		panic("launch: the init has no end")
	}
	return bytes.Clone(text[:end])
}
