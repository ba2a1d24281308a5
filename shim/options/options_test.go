package options

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	runc := &runcoptions.Options{
		NoPivotRoot: true, NoNewKeyring: true, ShimCgroup: "/shim", IoUid: 1000, IoGid: 1 << 31,
		BinaryName: "crun", Root: "/run/x", SystemdCgroup: true, CriuImagePath: "/i", CriuWorkPath: "/w",
		TaskApiAddress: "unix:///x", TaskApiVersion: 3, //nolint:staticcheck // deprecated, and still sent
	}
	want := Options{
		NoPivotRoot: true, NoNewKeyring: true, ShimCgroup: "/shim", IOUID: 1000, IOGID: 1 << 31,
		BinaryName: "crun", Root: "/run/x", SystemdCgroup: true, CriuImagePath: "/i", CriuWorkPath: "/w",
	}
	file := filepath.Join(t.TempDir(), "options.toml")
	if err := os.WriteFile(file, []byte("# of myshim\nSystemdCgroup = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		typeURL string
		value   []byte
		want    Options
		err     string
	}{
		"none":           {"", nil, Options{}, ""},
		"runc":           {"containerd.runc.v1.Options", marshal(t, runc), want, ""},
		"prefix":         {"type.googleapis.com/containerd.runc.v1.Options", marshal(t, runc), want, ""},
		"empty":          {"containerd.runc.v1.Options", nil, Options{}, ""},
		"runtime, empty": {"runtimeoptions.v1.Options", nil, Options{}, ""},
		"body": {"runtimeoptions.v1.Options", marshal(t, &runtimeoptions.Options{
			ConfigBody: []byte("SystemdCgroup = true\nRoot = '/run/x'\n"),
		}), Options{SystemdCgroup: true, Root: "/run/x"}, ""},
		"file": {"runtimeoptions.v1.Options", marshal(t, &runtimeoptions.Options{
			TypeUrl: "whatever", ConfigPath: file, ConfigBody: []byte("NoPivotRoot = true"),
		}), Options{SystemdCgroup: true}, ""},
		"no such file": {"runtimeoptions.v1.Options", marshal(t, &runtimeoptions.Options{ConfigPath: file + "x"}), Options{},
			"options: open " + file + "x: no such file or directory"},
		"relative file": {"runtimeoptions.v1.Options", marshal(t, &runtimeoptions.Options{ConfigPath: "x"}), Options{},
			`options: config_path "x" is not absolute`},
		"other type":       {"windows.Options", nil, Options{}, `options: type "windows.Options" is neither`},
		"no type":          {"", []byte("x"), Options{}, "without a type"},
		"not protobuf":     {"containerd.runc.v1.Options", []byte("\xff"), Options{}, "cut off"},
		"not TOML":         {"runtimeoptions.v1.Options", marshal(t, &runtimeoptions.Options{ConfigBody: []byte("x")}), Options{}, "line 1"},
		"cut off, runtime": {"runtimeoptions.v1.Options", []byte("\x1a\x05"), Options{}, "cut off"},
	} {
		got, err := Decode(c.typeURL, c.value)
		check(t, name, got, c.want, err, c.err)
	}
}

func check(t *testing.T, name string, got, want Options, err error, wantErr string) {
	t.Helper()
	switch {
	case wantErr == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
		t.Errorf("%s: error %v, want %q", name, err, wantErr)
	case got != want:
		t.Errorf("%s: got %+v, want %+v", name, got, want)
	}
}

func TestTOML(t *testing.T) {
	for text, c := range map[string]struct {
		want Options
		err  string
	}{
		"":                  {},
		"  # nothing\r\n\n": {},
		// As CRI writes the default table of containerd 1.7.
		"BinaryName = \"\"\nCriuImagePath = \"\"\nCriuPath = \"\"\nCriuWorkPath = \"\"\nIoGid = 0\nIoUid = 0\n" +
			"NoNewKeyring = false\nNoPivotRoot = false\nRoot = \"\"\nShimCgroup = \"\"\nSystemdCgroup = true\n": {want: Options{SystemdCgroup: true}},
		"systemd_cgroup=true":                  {want: Options{SystemdCgroup: true}},
		"'IoUid' = 1_0":                        {err: "line 1: IoUid: 1_0 is not a string in quotes, a number, true or false"},
		"\"io_uid\"\t= +10 # ten":              {want: Options{IOUID: 10}},
		"ConfigPath = ''\nTypeUrl = 'x'":       {},
		`Root = "a\"\\\u00e4\U0001F600\t"`:     {want: Options{Root: "a\"\\ä😀\t"}},
		`Root = 'a\b#"'  `:                     {want: Options{Root: `a\b#"`}},
		"\nRooot = 'x'":                        {err: `line 2: unknown key "Rooot"`},
		"Root = 'x'\nroot = 'x'":               {err: "line 2: Root is set twice"},
		"[runc]":                               {err: "line 1: tables such as [runc] are not supported"},
		"a.b = 1":                              {err: "tables such as a.b = 1 are not supported"},
		"Root":                                 {err: `line 1: "Root" is not of the form Key = value`},
		"= 1":                                  {err: "not of the form"},
		"Root =":                               {err: "Root: no value"},
		"Root = /run":                          {err: "Root: /run is not a string in quotes"},
		"Root = true":                          {err: "Root: true is not a string"},
		"Root = 'x' y":                         {err: `Root: unexpected "y" after the value`},
		"Root = 'x":                            {err: "has no end"},
		`Root = "x\"`:                          {err: "has no end"},
		`Root = "\u12"`:                        {err: "no end"},
		`Root = "\ud800"`:                      {err: `\ud800 is not a character`},
		`Root = "\q"`:                          {err: `unknown escape \q`},
		`Root = """x"""`:                       {err: "several lines"},
		"Root = '\x01'":                        {err: "control character 0x01"},
		"Root = '\xff'":                        {err: "not UTF-8"},
		"Root = ['x']":                         {err: "Root: ['x'] is not a string in quotes"},
		"SystemdCgroup = 1":                    {err: "1 is not true or false"},
		"SystemdCgroup = \"true\"":             {err: "is not true or false"},
		"IoUid = -1":                           {err: "-1 is not a number from 0 to 4294967295"},
		"IoUid = 4294967296":                   {err: "4294967296 is not a number"},
		"IoUid = '0'":                          {err: "is not a number"},
		"IoUid = 1.5":                          {err: "1.5 is not a string in quotes, a number"},
		strings.Repeat("#\n", 9) + "IoUid = x": {err: "line 10"},
	} {
		var got Options
		err := got.decodeTOML(text)
		if err != nil {
			got = Options{}
		}
		check(t, text, got, c.want, err, c.err)
	}
}

func TestWarnings(t *testing.T) {
	if w := (Options{SystemdCgroup: true, IOUID: 1, ShimCgroup: "/x"}).Warnings(); w != nil {
		t.Errorf("warnings %q about what has an effect", w)
	}
	if w := (Options{BinaryName: "no-runc", Root: "/x"}).Warnings(); len(w) != 2 || !strings.Contains(w[0], `"no-runc"`) || !strings.Contains(w[1], `"/x"`) {
		t.Errorf("warnings %q", w)
	}
}

// FuzzRunc: what the generated type makes of a message is what we do.
func FuzzRunc(f *testing.F) {
	f.Add(marshal(f, &runcoptions.Options{SystemdCgroup: true, IoUid: 7, Root: "/x"}))
	f.Add([]byte("\x3a\x00\x3a\x01x\x48\x02"))
	f.Fuzz(func(t *testing.T, message []byte) {
		var theirs runcoptions.Options
		if proto.Unmarshal(message, &theirs) != nil {
			return // it also refuses strings that are not UTF-8
		}
		got, err := Decode("containerd.runc.v1.Options", message)
		if err != nil {
			t.Skip(err) // groups, which nobody sends
		}
		want := Options{
			NoPivotRoot: theirs.NoPivotRoot, NoNewKeyring: theirs.NoNewKeyring, ShimCgroup: theirs.ShimCgroup,
			IOUID: theirs.IoUid, IOGID: theirs.IoGid, BinaryName: theirs.BinaryName, Root: theirs.Root,
			SystemdCgroup: theirs.SystemdCgroup, CriuImagePath: theirs.CriuImagePath, CriuWorkPath: theirs.CriuWorkPath,
		}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// FuzzTOML: no input crashes it, and what it takes means the same when every
// line is taken by itself.
func FuzzTOML(f *testing.F) {
	f.Add("SystemdCgroup = true\nRoot = \"/run\\u0041\" # x\n'io_uid' = 7")
	f.Add("BinaryName = 'crun'\r\nIoGid=-0")
	f.Add("[plugins]\na.b = 1")
	f.Fuzz(func(t *testing.T, text string) {
		var whole, byLine Options
		if err := whole.decodeTOML(text); err != nil {
			if !strings.HasPrefix(err.Error(), "line ") {
				t.Errorf("error without its line: %v", err)
			}
			return
		}
		for line := range strings.Lines(text) {
			if err := byLine.decodeTOML(line); err != nil {
				t.Errorf("%q alone: %v", line, err)
			}
		}
		if whole != byLine {
			t.Errorf("%+v as a whole, %+v by line", whole, byLine)
		}
	})
}
