package main

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

var loadApplets = []applet{
	{"memhog", "BYTES [SECONDS]: touch so much memory, say so, hold it", memhog},
	{"cpuhog", "SECONDS: burn one CPU, print the CPU time it got", cpuhog},
	{"forkbomb", "COUNT [SECONDS]: start so many sleeping children, print how many there could be, hold and end them", forkbomb},
	{"direct", "PATH read|write BYTES: past the page cache, print the seconds it took", direct},
}

func memhog(args []string) int {
	size := intArg(args, 0, 0)
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return check(err)
	}
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
	fmt.Println("touched", size)
	time.Sleep(durationArg(args, 1, 0))
	return 0
}

func cpuhog(args []string) int {
	end := time.Now().Add(durationArg(args, 0, time.Second))
	for n := 0; time.Now().Before(end); n++ {
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return check(err)
	}
	fmt.Println(time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds())
	return 0
}

func forkbomb(args []string) int {
	var children []*exec.Cmd
	var failure error
	for range intArg(args, 0, 100) {
		cmd := exec.Command("/bin/still") // one task each: testbox would be several
		if failure = cmd.Start(); failure != nil {
			break
		}
		children = append(children, cmd)
	}
	code := printJSON(map[string]any{"started": len(children), "error": outcome(failure)})
	time.Sleep(durationArg(args, 1, 0))
	for _, cmd := range children {
		_ = cmd.Process.Signal(os.Kill)
		_ = cmd.Wait()
	}
	return code
}

func direct(args []string) int {
	const piece = 64 << 10
	flags, transfer := unix.O_RDONLY, unix.Read
	if args[1] == "write" {
		flags, transfer = unix.O_WRONLY, unix.Write
	}
	fd, err := unix.Open(args[0], flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return check(err)
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // aligned
	if err != nil {
		return check(err)
	}
	started := time.Now()
	for left := intArg(args, 2, 0); left > 0; left -= piece {
		if n, err := transfer(fd, buf); err != nil || n != piece {
			return check(fmt.Errorf("%d of %d bytes: %w", n, piece, err))
		}
	}
	fmt.Println(time.Since(started).Seconds())
	return 0
}
