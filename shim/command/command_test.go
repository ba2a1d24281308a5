package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/myshim/myshim/shim/options"
)

func TestMain(m *testing.M) {
	before := descriptors()
	status := m.Run()
	if after := descriptors(); status == 0 && len(after) > len(before) {
		fmt.Fprintf(os.Stderr, "descriptors were left open: %v, %v before\n", after, before)
		status = 1
	}
	os.Exit(status)
}

func descriptors() (open []string) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		// The Go runtime's own are opened once.
		if to, err := os.Readlink(fd); err == nil && !strings.HasPrefix(to, "anon_inode:[event") {
			open = append(open, to)
		}
	}
	return open
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Line{
		"": {},
		"-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc start":   {Action: "start", Namespace: "k8s.io", Address: "/run/c.sock", ID: "abc"},
		"--namespace=k8s.io --address /run/c.sock -publish-binary= -id=a=b -debug -bundle /b delete": {Action: "delete", Namespace: "k8s.io", Address: "/run/c.sock", ID: "a=b", Debug: true, Bundle: "/b"},
		"-namespace ns -id delete start":    {Action: "start", Namespace: "ns", ID: "delete"},
		"-id -debug":                        {ID: "-debug"},
		"-socket /s -debug-socket /d -id x": {ID: "x"},
		"-debug=false -id x":                {ID: "x"},
		"-v":                                {Version: true},
		"--version":                         {Version: true},
		"-info":                             {Info: true},
		"-h":                                {Help: true},
		"plan /bundle -id x":                {Action: "plan", Args: []string{"/bundle", "-id", "x"}},
		"-- -id":                            {Action: "-id", Args: []string{}},
		"- x":                               {Action: "-", Args: []string{"x"}},
		"-new -id x start":                  {Action: "start", ID: "x"},
		"-new value -id x start":            {Action: "start", ID: "x"},
		"-new=value -id x start":            {Action: "start", ID: "x"},
		"-id x -new start":                  {Action: "start", ID: "x"},
		"-id x -new value start":            {Action: "start", ID: "x"},
	} {
		got, err := Parse(strings.Fields(text))
		if len(want.Args) == 0 && len(got.Args) == 0 {
			got.Args, want.Args = nil, nil
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\ngot  %+v, %v\nwant %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"-id":        "flag -id needs a value",
		"-debug=7up": "flag -debug=7up is neither true nor false",
	} {
		if _, err := Parse(strings.Fields(text)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

var line = Line{ID: "abc", Namespace: "ns", Address: "/run/c.sock"}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func legacy(t testing.TB, m proto.Message) []byte {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return marshal(t, a)
}

// params are BootstrapParams as containerd 2.4 sends them.
func params(t testing.TB, change func(*bootapi.BootstrapParams), extensions ...proto.Message) []byte {
	t.Helper()
	dir := "/run/s"
	p := &bootapi.BootstrapParams{
		InstanceID: "abc", Namespace: "ns", ContainerdVersion: "2.4.2", ContainerdBinary: "/usr/bin/containerd",
		ContainerdGrpcAddress: "/run/c2.sock", ContainerdTtrpcAddress: "/run/c.sock.ttrpc", SocketDir: &dir,
	}
	for _, e := range extensions {
		if err := p.AddExtension(e); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(p)
	}
	return marshal(t, p)
}

func TestBootstrap(t *testing.T) {
	t.Setenv("TTRPC_ADDRESS", "/env.ttrpc")
	newer := bootstrap{id: "abc", namespace: "ns", grpcAddress: "/run/c2.sock", ttrpcAddress: "/run/c.sock.ttrpc", socketDir: "/run/s"}
	older := bootstrap{id: "abc", namespace: "ns", grpcAddress: "/run/c.sock", ttrpcAddress: "/env.ttrpc", socketDir: defaultSocketDir, legacy: true}
	with := func(p bootstrap, change func(*bootstrap)) bootstrap { change(&p); return p }

	for name, c := range map[string]struct {
		line  Line
		input []byte
		want  bootstrap
		err   string
	}{
		"2.4": {line, params(t, nil), newer, ""},
		"2.4, options": {line, params(t, nil, &anypb.Any{TypeUrl: "other", Value: []byte("\xff")}, &runcoptions.Options{ShimCgroup: "/x"}),
			with(newer, func(p *bootstrap) { p.options.ShimCgroup = "/x" }), ""},
		"2.4, unknown options": {line, params(t, nil, &anypb.Any{TypeUrl: "other"}), newer, ""},
		"2.4, TOML": {line, params(t, nil, &runtimeoptions.Options{ConfigBody: []byte("ShimCgroup='/y'")}),
			with(newer, func(p *bootstrap) { p.options.ShimCgroup = "/y" }), ""},
		"2.4, bad options": {line, params(t, nil, &runtimeoptions.Options{ConfigBody: []byte("x=1")}), bootstrap{}, `options: line 1: unknown key "x"`},
		"debug": {line, params(t, func(p *bootapi.BootstrapParams) { p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG }),
			with(newer, func(p *bootstrap) { p.debug = true }), ""},
		"trace": {line, params(t, func(p *bootapi.BootstrapParams) { p.LogLevel = bootapi.LogLevel_LOG_LEVEL_TRACE }),
			with(newer, func(p *bootstrap) { p.debug = true }), ""},
		"warn": {line, params(t, func(p *bootapi.BootstrapParams) { p.LogLevel = bootapi.LogLevel_LOG_LEVEL_WARN }), newer, ""},
		"shimtest": {line, params(t, func(p *bootapi.BootstrapParams) { p.ContainerdTtrpcAddress = "" }),
			with(newer, func(p *bootstrap) { p.ttrpcAddress = "/env.ttrpc" }), ""},
		"defaults": {line, params(t, func(p *bootapi.BootstrapParams) { p.SocketDir, p.ContainerdGrpcAddress = nil, "" }),
			with(newer, func(p *bootstrap) { p.socketDir, p.grpcAddress = defaultSocketDir, "/run/c.sock" }), ""},
		"other container": {line, params(t, func(p *bootapi.BootstrapParams) { p.InstanceID = "abd" }), bootstrap{},
			`stdin holds neither BootstrapParams of abc in namespace ns (they are of "abd" in namespace "ns") nor options (their type is "abd")`},

		"1.7, nothing": {line, nil, older, ""},
		"1.7, debug": {Line{ID: "abc", Namespace: "ns", Address: "/run/c.sock", Debug: true}, nil,
			with(older, func(p *bootstrap) { p.debug = true }), ""},
		"1.7, runc": {line, legacy(t, &runcoptions.Options{ShimCgroup: "/x", BinaryName: "b"}),
			with(older, func(p *bootstrap) { p.options = options.Options{ShimCgroup: "/x", BinaryName: "b"} }), ""},
		"1.7, TOML": {line, legacy(t, &runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup=true")}),
			with(older, func(p *bootstrap) { p.options.SystemdCgroup = true }), ""},
		// The Any passes for BootstrapParams, by its field numbers.
		"1.7, named as a type": {Line{ID: "containerd.runc.v1.Options", Namespace: "ns"}, marshal(t, &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte("\x18\x01")}),
			bootstrap{id: "containerd.runc.v1.Options", namespace: "ns", ttrpcAddress: "/env.ttrpc", socketDir: defaultSocketDir, legacy: true}, ""},
		"1.7, other type": {line, legacy(t, &taskapi.StateRequest{}), bootstrap{}, `nor options (their type is "type.googleapis.com/containerd.task.v3.StateRequest")`},
		"text":            {line, []byte("hello"), bootstrap{}, "(protobuf message is cut off or not one) nor options (protobuf message is cut off or not one)"},
	} {
		got, err := parseBootstrap(c.line, c.input)
		switch {
		case c.err == "" && err != nil, c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		case err == nil && got != c.want:
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, c.want)
		}
	}
	if _, err := readBootstrap(line, io.LimitReader(zeros{}, maxInput+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("endless input: %v", err)
	}
	if _, err := readBootstrap(line, iotest.ErrReader(errors.New("broken"))); err == nil || err.Error() != "read stdin: broken" {
		t.Errorf("broken input: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestAnswer(t *testing.T) {
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(bootstrap{}.answer("unix:///run/s/x"), &result); err != nil {
		t.Fatal(err)
	}
	want := &bootapi.BootstrapResult{Version: 3, Address: "unix:///run/s/x", Protocol: "ttrpc"}
	if err := want.AddExtension(&types.MountCapabilities{Types: []string{"erofs", "ext4"}, Transforms: []string{"format", "mkdir"}}); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&result, want) {
		t.Errorf("got %v, want %v", &result, want)
	}
	// Containerd 1.6 takes all of it for the address; 1.7 to 2.2 do when it is no
	// JSON, newer ones when it is no protobuf either.
	answer := bootstrap{legacy: true}.answer("unix:///run/s/x")
	if string(answer) != "unix:///run/s/x" || json.Valid(answer) || proto.Unmarshal(answer, &result) == nil {
		t.Errorf("got %q", answer)
	}
}

// FuzzBootstrap: BootstrapParams mean what the generated type makes of them,
// and nothing else passes for those of this container.
func FuzzBootstrap(f *testing.F) {
	f.Add(params(f, nil))
	f.Add(params(f, func(p *bootapi.BootstrapParams) { p.LogLevel = -4 }, &runcoptions.Options{ShimCgroup: "/x"}))
	f.Add(params(f, nil, &runtimeoptions.Options{ConfigBody: []byte("Root = '/x'")}))
	f.Add(legacy(f, &runcoptions.Options{SystemdCgroup: true}))
	f.Add(legacy(f, &runtimeoptions.Options{ConfigPath: "/nonexistent"}))
	f.Add([]byte{})
	f.Add([]byte(`{"instance_id":"abc"}`))
	f.Fuzz(func(t *testing.T, input []byte) {
		got, err := parseBootstrap(line, input)
		if err != nil {
			return
		}
		var theirs bootapi.BootstrapParams
		if proto.Unmarshal(input, &theirs) != nil {
			if !got.legacy && !bytes.ContainsFunc(input, func(r rune) bool { return r == 0xfffd }) {
				t.Fatalf("not BootstrapParams, and taken for them: %+v", got)
			}
			return
		}
		if same := theirs.InstanceID == line.ID && theirs.Namespace == line.Namespace; same == got.legacy {
			t.Fatalf("%+v of %v", got, &theirs)
		}
		if got.legacy {
			return
		}
		if got.debug != (theirs.LogLevel <= bootapi.LogLevel_LOG_LEVEL_DEBUG) ||
			theirs.ContainerdGrpcAddress != "" && got.grpcAddress != theirs.ContainerdGrpcAddress ||
			theirs.ContainerdTtrpcAddress != "" && got.ttrpcAddress != theirs.ContainerdTtrpcAddress ||
			theirs.GetSocketDir() != "" && got.socketDir != theirs.GetSocketDir() {
			t.Fatalf("%+v of %v", got, &theirs)
		}
	})
}

func TestGroup(t *testing.T) {
	t.Chdir(t.TempDir())
	for config, want := range map[string]string{
		"": "abc", // no file
		`{"ociVersion":"1.2.0","annotations":{"x":"y"},"linux":{}}`:                                                         "abc",
		`{"process":{"args":["a{","\""],"n":[1,-2.5e3,true,null,{}]},"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`: "pod",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}`:                          "g",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"p\u006Fd\ud83d\ude00\/"}}`:                                         "pod😀/",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":""}}`:                                                               "abc",
		`{"annotations":null}`: "abc",
		`{"annotations":{"io.containerd.runc.v2.group":"g"}, and no more than that`: "g",
		`{}`: "abc",

		`{"annotations":{"io.containerd.runc.v2.group":1}}`: `config.json: at byte 46: '1' where '"' belongs`,
		`{"annotations":[]}`:                `config.json: at byte 15: '[' where '{' belongs`,
		`{"annotations":{"x":"y"`:           "config.json: at byte 23: unexpected EOF",
		`[]`:                                "config.json: at byte 0: '[' where '{' belongs",
		`{"a":}`:                            "config.json: at byte 5: '}' where a value belongs",
		`{"a":1,}`:                          `config.json: at byte 7: '}' where '"' belongs`,
		"{\"a\":\"\n\"}":                    `config.json: at byte 6: control character 0x0a in a string`,
		`{"annotations":{"a\x":"b"}}`:       `unknown escape \x`,
		`{"annotations":{"a\u12":"b"}}`:     `a \u without four hexadecimal digits`,
		strings.Repeat(`{"a":`, 2000):       "nested too deeply",
		`{"a":` + strings.Repeat("[", 2000): "nested too deeply",
	} {
		os.Remove("config.json")
		if config != "" {
			if err := os.WriteFile("config.json", []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := group("abc")
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%.60s: %s, want %s", config, got, want)
		}
	}
}

// FuzzJSON: of what encoding/json takes for an object, we read the same.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"a":"b","annotations":{"x":"\u00e4\ud83d\ude00\\","y":"z"},"l":[1,{"m":null}]}`), 3)
	f.Add([]byte(` { "annotations" : { } , "x" : -1.5E+7 } `), 1)
	f.Fuzz(func(t *testing.T, text []byte, chunk int) {
		var want map[string]json.RawMessage
		valid := json.Unmarshal(text, &want) == nil && want != nil
		got := map[string]string{}
		err := members(&chunks{text, max(1, chunk)}, func(key string, s *scanner) bool {
			if s.token() == '"' {
				got[key] = s.text()
			} else {
				delete(got, key)
				s.skip()
			}
			return true
		})
		if !valid {
			return // we are not as strict with numbers
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		strs := map[string]string{}
		for key, raw := range want {
			var s string
			if raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
				strs[key] = s
			}
		}
		if !bytes.ContainsRune(text, 0xfffd) && !reflect.DeepEqual(got, strs) {
			t.Errorf("%q: got %q, want %q", text, got, strs)
		}
	})
}

// chunks is a reader that returns a few bytes at a time.
type chunks struct {
	text []byte
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.text)
	c.text = c.text[n:]
	return n, nil
}

// shortDir is one whose sockets' paths are not too long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSocketPath(t *testing.T) {
	// What containerd's CreateSocketAddress returns.
	const want = "/run/containerd/s/e546d85a158a7cc460c51a2f5dd823afcd49e7a1cf2d22c7d9d5863e32904312"
	if got := socketPath(defaultSocketDir, "/run/containerd/containerd.sock", "default", "id"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestListen(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "a", "b")
	fd, err := listen(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		filepath.Dir(file): os.ModeDir | 0o700,
		file:               os.ModeSocket | 0o600,
	} {
		if st, err := os.Lstat(name); err != nil || st.Mode() != want {
			t.Errorf("%s: %v %v, want %v", name, st.Mode(), err, want)
		}
	}
	if _, err := listen(file); !errors.Is(err, errTaken) {
		t.Errorf("second daemon: %v", err)
	}
	// Its queue of connections is full: busy, not stale.
	var conns []int
	for {
		c, err := unixSocket()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if syscall.Connect(c, &syscall.SockaddrUnix{Name: file}) == syscall.EAGAIN {
			break
		}
	}
	if _, err := listen(file); !errors.Is(err, errTaken) {
		t.Errorf("busy daemon: %v", err)
	}
	for _, c := range conns {
		syscall.Close(c)
	}
	syscall.Close(fd)
	if fd, err = listen(file); err != nil {
		t.Errorf("stale socket: %v", err)
	}
	if err := removeStale(file); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(file); err != nil {
		t.Errorf("a socket in use was removed: %v", err)
	}
	syscall.Close(fd)
	if err := removeStale(file); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stale socket was left: %v", err)
	}

	if _, err := listen(filepath.Join(dir, strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "is too long: at most 42 bytes") {
		t.Errorf("long path: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(filepath.Join(dir, "x")); err == nil || !strings.Contains(err.Error(), "open to others") {
		t.Errorf("directory for all: %v", err)
	}
}

// Of those who find a stale socket at once, one replaces it, and the others
// find the new one.
func TestListenRace(t *testing.T) {
	file := filepath.Join(shortDir(t), "s")
	for range 50 {
		fd, err := listen(file)
		if err != nil {
			t.Fatal(err)
		}
		syscall.Close(fd)
		var wg sync.WaitGroup
		made := make(chan int, 10)
		for range cap(made) {
			wg.Go(func() {
				fd, err := listen(file)
				if err == nil {
					made <- fd
				} else if !errors.Is(err, errTaken) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(made) != 1 {
			t.Fatalf("%d made a socket", len(made))
		}
		if !accepts(file) {
			t.Error("the socket is not the one that was made")
		}
		syscall.Close(<-made)
	}
}

func TestSocketOf(t *testing.T) {
	bundle := t.TempDir()
	line := Line{ID: "abc", Namespace: "ns", Address: "/run/c.sock", Bundle: bundle}
	byDefault := socketPath(defaultSocketDir, "/run/c.sock", "ns", "abc")
	for _, step := range []struct{ name, content, want string }{
		{"", "", byDefault},
		{"bootstrap.json", `{"version":3,"address":"unix:///run/pod","protocol":"ttrpc"}`, "/run/pod"},
		{"bootstrap.json", `{"version":3,"addr`, byDefault},
		{"address", "unix:///run/own", "/run/own"},
	} {
		if step.name != "" {
			if err := os.WriteFile(filepath.Join(bundle, step.name), []byte(step.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := socketOf(line); got != step.want {
			t.Errorf("with %s %q: %s, want %s", step.name, step.content, got, step.want)
		}
	}
}

func TestDelete(t *testing.T) {
	bundle := t.TempDir()
	line := Line{ID: "abc", Namespace: "ns", Address: bundle, Bundle: bundle}
	try := func(name string, want bool) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		before := time.Now()
		done, err := Delete(line, &stdout, &stderr)
		if err != nil || done != want || stderr.Len() > 0 {
			t.Fatalf("%s: %v %v %s", name, done, err, &stderr)
		}
		if !want {
			return
		}
		var answer taskapi.DeleteResponse
		if err := proto.Unmarshal(stdout.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		if at := answer.ExitedAt.AsTime(); answer.Pid != 0 || answer.ExitStatus != 137 || at.Before(before.Truncate(0).Add(-time.Second)) || at.After(time.Now()) {
			t.Errorf("%s: %v", name, &answer)
		}
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bundle, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	try("empty bundle", true)
	write("config.json", "{}")
	write("log", "")
	write("shim-binary-path", "/x")
	write("sandbox", "pod")
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	try("containerd's files", true)

	dir := shortDir(t)
	stale := filepath.Join(dir, "stale")
	fd, err := listen(stale)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(fd)
	write(addressFile, scheme+stale)
	try("dead daemon", true)
	if _, err := os.Lstat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of the dead daemon: %v", err)
	}

	write("state.json", "{}")
	try("something left", false)
	line.Bundle = filepath.Join(bundle, "none")
	try("no bundle", true)
	line.ID = ""
	try("no ID", false)
}

// One that listens but does not speak ttrpc is left alone, with a warning.
func TestReleaseOfAnother(t *testing.T) {
	file := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "220 smtp.example.org ESMTP\r\n")
			c.Close()
		}
	}()
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, addressFile), []byte(scheme+file), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	done, err := Delete(Line{ID: "abc", Namespace: "ns", Bundle: bundle}, &stdout, &stderr)
	if !done || err != nil || !strings.Contains(stderr.String(), "ask the daemon on "+file) || stdout.Len() == 0 {
		t.Errorf("%v %v %q", done, err, &stderr)
	}
}

func TestResult(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 999999999, time.UTC)
	var b bytes.Buffer
	if err := (Result{PID: 4711, Status: 137, At: at}).Answer(&b); err != nil {
		t.Fatal(err)
	}
	var got taskapi.DeleteResponse
	if err := proto.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Pid != 4711 || got.ExitStatus != 137 || !got.ExitedAt.AsTime().Equal(at) {
		t.Errorf("got %v", &got)
	}
}
