package netdev

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// namespaces gives the test a network namespace, on its thread, and another one.
func namespaces(t *testing.T) (other *os.File) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it takes root to make network namespaces")
	}
	runtime.LockOSThread() // and never unlock it: the thread ends with the test
	open := func() *os.File {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	other = open()
	open()
	return other
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("no ip(8) to make interfaces with")
	}
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "Unknown device type") {
			t.Skipf("this kernel makes no such interfaces: %s", out)
		}
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

func TestTakeAndSettle(t *testing.T) {
	other := namespaces(t)
	ip(t, "link", "add", "host0", "type", "veth", "peer", "name", "peer0")
	ip(t, "link", "set", "host0", "mtu", "1400", "up")
	ip(t, "addr", "add", "10.9.8.7/24", "broadcast", "10.9.8.255", "dev", "host0")
	ip(t, "addr", "add", "fd00::7/64", "dev", "host0", "nodad")
	ip(t, "addr", "add", "10.1.1.1/24", "scope", "link", "dev", "host0")
	d, err := Take("host0", "inside0", other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName("host0"); err == nil {
		t.Error("it is still there")
	}
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if err := d.Settle(); err != nil {
		t.Fatal(err)
	}
	link, err := net.InterfaceByName("inside0")
	if err != nil {
		t.Fatal(err)
	}
	if link.Flags&net.FlagUp == 0 || link.MTU != 1400 {
		t.Errorf("%+v", link)
	}
	list, err := link.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range list {
		if !strings.HasPrefix(a.String(), "fe80") {
			got = append(got, a.String())
		}
	}
	if s := strings.Join(got, " "); s != "10.9.8.7/24 fd00::7/64" {
		t.Errorf("addresses %s", s)
	}
}

func TestFreeName(t *testing.T) {
	namespaces(t)
	ip(t, "link", "add", "taken", "type", "veth", "peer", "name", "tap0")
	for name, want := range map[string]string{"tap%d": "tap1", "x%dy": "x0y", "free": "free", "taken": ""} {
		got, err := FreeName(name)
		if got != want || errors.Is(err, unix.EEXIST) != (want == "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestTakeNothing(t *testing.T) {
	other := namespaces(t)
	if _, err := Take("nothing", "x", other); err == nil {
		t.Error("there is none")
	}
}
