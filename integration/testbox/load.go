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
	{"forkbomb", "COUNT: start so many sleeping children, print how many there could be, end them", forkbomb},
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
	for _, cmd := range children {
		_ = cmd.Process.Signal(os.Kill)
		_ = cmd.Wait()
	}
	return printJSON(map[string]any{"started": len(children), "error": outcome(failure)})
}
