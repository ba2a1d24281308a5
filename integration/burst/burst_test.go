package burst

import (
	"bytes"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	var good bytes.Buffer
	if err := Write(&good, 0, 10_000); err != nil {
		t.Fatal(err)
	}
	if err := Write(&good, 7, 1); err != nil {
		t.Fatal(err)
	}
	all := good.String()
	if len(all) != 158*LineSize {
		t.Fatalf("%d bytes", len(all))
	}

	for name, tc := range map[string]struct{ data, err string }{
		"whole":         {all, ""},
		"empty":         {"", ""},
		"cut in a line": {all[:len(all)-1], "cut after"},
		"no last line":  {all[:len(all)-2*LineSize], "without its last one"},
		"a line lost":   {all[:LineSize] + all[2*LineSize:], "want line 1"},
		"a bit flipped": {strings.Replace(all, "x", "y", 1), "want \""},
		"foreign text":  {"hello\n" + all, "not a burst line"},
	} {
		_, err := Check(strings.NewReader(tc.data))
		switch {
		case tc.err == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%s: %v, want %q", name, err, tc.err)
		}
	}
	if sum, _ := Check(strings.NewReader(all)); sum != (Summary{Writers: 2, Bytes: int64(len(all))}) {
		t.Errorf("%+v", sum)
	}
}
