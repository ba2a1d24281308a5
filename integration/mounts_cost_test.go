package integration

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestHostTableDoesNotChange counts what the kernel tells whoever waits for
// changes of the host's table of mounts, as systemd does, which reads all of it
// then.
func TestHostTableDoesNotChange(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it mounts the root file system on the host")
		// Not os.Open: Go's poller would take the notifications.
		table, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		s.must(err)
		defer unix.Close(table)
		changes := func() int {
			fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}}
			n, err := unix.Poll(fds, 0)
			s.must(err)
			return n
		}
		// The test sees changes at all.
		s.must(unix.Mount("tmpfs", s.peer.Dir, "tmpfs", 0, ""))
		s.must(unix.Unmount(s.peer.Dir, 0))
		if changes() == 0 {
			s.Fatal("a mount is not noticed")
		}
		before := hostTable(s)
		dir := s.dir()
		for i := range 100 {
			c := s.launch(still(), withMounts(
				specs.Mount{Destination: "/srv", Type: "bind", Source: dir, Options: []string{"rbind", "ro", "rshared"}},
				specs.Mount{Destination: "/work/t", Type: "tmpfs", Source: "tmpfs"}))
			s.must(c.exec("e", nil, "/bin/testbox", "true"))
			s.must(c.start("e"))
			_, err := c.wait("e")
			s.must(err)
			_, err = c.delete("e")
			s.must(err)
			s.must(c.kill("", unix.SIGKILL))
			c.finish()
			if changes() != 0 {
				s.Fatalf("container %d changed the table", i)
			}
		}
		if after := hostTable(s); after != before {
			s.Errorf("the table was\n%s\nis\n%s", before, after)
		}
	})
}

// TestMountsCost compares what a bind mount costs with what it does under runc,
// in the same run, and with the bare system calls.
func TestMountsCost(t *testing.T) {
	reference, subject := pair(t)
	if subject.Name == harness.Oracle {
		t.Skip("nothing to compare")
	}
	stages := []*stage{newStage(t, reference), newStage(t, subject)}
	dir := stages[0].dir()
	rounds := count(5, 15)
	for _, n := range []int{5, 50, 500} {
		var took [2][2][]time.Duration // by runtime, without and with the mounts
		var bare []time.Duration
		for range rounds {
			for r, s := range stages {
				for with, mounts := range []int{0, n} {
					took[r][with] = append(took[r][with], s.createTime(dir, mounts))
				}
			}
			bare = append(bare, stages[1].bareBinds(dir, n))
		}
		var each [2]time.Duration
		for r := range stages {
			each[r] = (median(took[r][1]) - median(took[r][0])) / time.Duration(n)
		}
		ratio := float64(each[1]) / float64(each[0])
		t.Logf("%3d bind mounts: %v each, under runc %v (ratio %.2f); the bare system calls %v", n, each[1], each[0], ratio, median(bare)/time.Duration(n))
		if *long && n == 50 && ratio > 0.5 { // who asks for it has a quiet machine
			t.Errorf("50 bind mounts: %.2f of the time under runc, want at most 0.5", ratio)
		}
	}
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// createTime is how long Create takes with so many bind mounts.
func (s *stage) createTime(dir string, n int) time.Duration {
	s.Helper()
	mounts := make([]specs.Mount, n)
	for i := range mounts {
		mounts[i] = specs.Mount{Destination: fmt.Sprintf("/mnt/%d", i), Type: "bind", Source: dir, Options: []string{"rbind", "ro", "nosuid"}}
	}
	c := s.shim(still(), withMounts(mounts...))
	begin := time.Now()
	s.must(c.create())
	took := time.Since(begin)
	s.must(c.start(""))
	s.must(c.kill("", unix.SIGKILL))
	_, err := c.wait("")
	s.must(err)
	_, err = c.delete("")
	s.must(err)
	return took
}

// bareBinds makes the places and the mounts, on an overlay like the containers',
// by nothing but the system calls that it takes.
func (s *stage) bareBinds(source string, n int) (took time.Duration) {
	s.Helper()
	dir := s.dir()
	for _, name := range []string{"/upper", "/work", "/root"} {
		s.must(os.Mkdir(dir+name, 0o755))
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
			unix.Mount("overlay", dir+"/root", "overlay", 0, "lowerdir="+s.root+",upperdir="+dir+"/upper,workdir="+dir+"/work"),
			os.Mkdir(dir+"/root/mnt", 0o755))
		begin := time.Now()
		for i := 0; i < n && err == nil; i++ {
			err = bareBind(source, fmt.Sprintf("%s/root/mnt/%d", dir, i))
		}
		took = time.Since(begin)
		done <- err
	}()
	s.must(<-done)
	return took
}

func bareBind(source, dest string) error {
	if err := unix.Mkdir(dest, 0o755); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, dest, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
