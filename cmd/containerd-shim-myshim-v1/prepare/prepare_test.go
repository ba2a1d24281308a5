package prepare

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also what imports this package, and leaves it some time.
func TestMain(m *testing.M) {
	if os.Getenv("MYSHIM_TEST") != "" {
		time.Sleep(200 * time.Millisecond)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Only the daemon makes a container of the bundle in its working directory.
func TestOnlyForDaemon(t *testing.T) {
	bundle := t.TempDir()
	for _, name := range []string{"config.json", "of-a-container"} { // with nothing left, delete is over before
		if err := os.WriteFile(filepath.Join(bundle, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]bool{
		"-namespace ns -id x": true, "-info": false, "-v": false, "-help": false, "plan .": false, "inspect": false,
		"-namespace ns -id x -bundle . delete": false,
	} {
		opened := watch(t, filepath.Join(bundle, "config.json"))
		cmd := exec.Command(self, strings.Fields(args)...)
		cmd.Dir = bundle
		cmd.Env = append(os.Environ(), "MYSHIM_TEST=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", args, err, out)
		}
		if got := opened(); got != want {
			t.Errorf("%s: config.json is opened: %v", args, got)
		}
	}
}

// watch returns a function that says whether the file has been opened.
func watch(t *testing.T, file string) func() bool {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		n, _ := unix.Read(fd, make([]byte, 4096))
		return n > 0
	}
}
