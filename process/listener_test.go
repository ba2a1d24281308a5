package process

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/stdio"
)

func init() {
	inside["personality"] = func([]string) int {
		_, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
		return int(errno)
	}
}

// agent answers the calls of one process that are notified, all with EXDEV.
func agent(t *testing.T, listener net.Listener, states chan<- specs.ContainerProcessState) {
	conn, err := listener.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	message, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(message, oob)
	if err != nil {
		t.Error(err)
		return
	}
	var state specs.ContainerProcessState
	if err := json.Unmarshal(message[:n], &state); err != nil {
		t.Error(err)
	}
	states <- state
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Errorf("no descriptor (%v)", err)
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("descriptors %v (%v)", fds, err)
		return
	}
	defer unix.Close(fds[0])
	// seccomp_unotify(2): struct seccomp_notif has 80 bytes, the answer 24.
	for {
		// The last process with the filter hangs it up.
		poll := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 10_000); err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var notification [80]byte
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&notification))); errno != 0 {
			return
		}
		answer := binary.LittleEndian.AppendUint64(nil, binary.LittleEndian.Uint64(notification[:]))
		answer = binary.LittleEndian.AppendUint64(answer, 0)
		answer = binary.LittleEndian.AppendUint32(answer, ^uint32(unix.EXDEV)+1)
		answer = binary.LittleEndian.AppendUint32(answer, 0)
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer[0])))
	}
}

// An agent gets the listener of the init and of each exec, with what they are,
// whether the filter is loaded with no_new_privs or before the last capability
// is dropped.
func TestListener(t *testing.T) {
	for _, newPrivileges := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "agent")
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		states := make(chan specs.ContainerProcessState, 1)
		cfg, _ := config(t, func(s *specs.Spec) {
			s.Process.NoNewPrivileges = !newPrivileges
			s.Annotations = map[string]string{"a": "b"}
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "for the agent",
				// With setsid among them an exec has to be in the pid namespace before it
				// has the filter.
				Syscalls: []specs.LinuxSyscall{{Names: []string{"personality", "setsid"}, Action: specs.ActNotify}},
			}
		}, "sleep")
		go agent(t, listener, states)
		c := create(t, cfg)
		start(t, c)
		want := specs.StateCreated
		if newPrivileges {
			want = specs.StateCreating
		}
		state := <-states
		if state.Pid != c.Init.State().PID || state.Metadata != "for the agent" || state.State.ID != c.ID || state.State.Status != want ||
			len(state.Fds) != 1 || state.Fds[0] != specs.SeccompFdName || state.State.Annotations["a"] != "b" {
			t.Errorf("%+v", state)
		}
		go agent(t, listener, states)
		p := &specs.Process{Cwd: "/", Args: []string{"/test", "personality"}, Env: []string{"INSIDE=1"}, NoNewPrivileges: !newPrivileges, Capabilities: &specs.LinuxCapabilities{}}
		e, err := c.Exec("e", p, stdio.Request{})
		if err == nil {
			err = c.StartExec(t.Context(), e)
		}
		if err != nil {
			t.Fatal(err)
		}
		state = <-states
		if state.State.Status != specs.StateRunning || state.State.Pid != c.Init.State().PID || state.Pid != e.State().PID {
			t.Errorf("%+v", state)
		}
		if code := wait(t, e); code != int(unix.EXDEV) {
			t.Errorf("the exec's call: %d", code)
		}
		if err := c.DeleteExec(t.Context(), e); err != nil {
			t.Error(err)
		}
	}
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/no/agent", Syscalls: []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActNotify}}}
	}, "sleep")
	cfgErr := func() error {
		c, err := Create(t.Context(), cfg)
		if err != nil {
			return err
		}
		defer func() { _ = c.Destroy(t.Context()) }()
		return c.Start(t.Context())
	}()
	if cfgErr == nil || !strings.Contains(cfgErr.Error(), "linux.seccomp.listenerPath") {
		t.Errorf("no agent: %v", cfgErr)
	}
}
