package stdio

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for uri, want := range map[string]string{
		"":                                 "{0  [] false}",
		"/run/x:%zz?#":                     "{1 /run/x:%zz?# [] false}",
		"fifo:///run/x":                    "{1 /run/x [] false}",
		"file:///var/log/a%20b?x=y":        "{2 /var/log/a b [] false}",
		"binary:///bin/log?b=2&a=1&a=3&c=": "{3 /bin/log [a 1 b 2 c ] false}",
		"binary-v2:///bin/log":             "{3 /bin/log [] true}",

		"x":                             "not an absolute path",
		"./x":                           "not an absolute path",
		"file://tmp/x":                  "the path must be absolute: file:///...",
		"file:x":                        "the path must be absolute",
		"binary://":                     "the path must be absolute",
		"ttrpc+unix:///x":               `unknown STDIO scheme "ttrpc+unix"`,
		"file:///%zz":                   `invalid URL escape "%zz"`,
		"binary:///x?a=%zz":             `invalid URL escape "%zz"`,
		"binary:///x?a=1;b":             "invalid semicolon separator in query",
		"/a\x00b":                       "NUL inside",
		"file:///a%00b":                 "NUL inside",
		"binary:///x?a=b%00":            "NUL inside",
		"file:///a\x00":                 "net/url: invalid control character in URL",
		"/" + strings.Repeat("x", 5000): "the path is too long",
	} {
		got, err := parse("stdout", uri)
		if err == nil {
			equal(t, uri, fmt.Sprint(got), want)
			continue
		}
		equal(t, uri, err.Error(), fmt.Sprintf("stdout %.200q: invalid stdio: %s", uri, want))
		equal(t, uri, errors.Is(err, ErrInvalid), true)
	}
}

func FuzzParse(f *testing.F) {
	for _, uri := range []string{"", "/run/x", "fifo:///x", "file:///a?b", "binary:///x?a=1&b=%20", "binary-v2://h/x", "a:b", "file:///%zz"} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		got, err := parse("stdout", uri)
		switch {
		case err != nil && len(err.Error()) > 2000:
			t.Errorf("error of %d bytes", len(err.Error()))
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Error(err)
		case err == nil && uri != "" && (!filepath.IsAbs(got.path) || strings.Contains(got.path, "\x00")):
			t.Errorf("%q: %v", uri, got)
		}
	})
}
