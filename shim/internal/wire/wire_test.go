package wire_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/myshim/myshim/shim/internal/wire"
)

func TestAppend(t *testing.T) {
	want, err := proto.Marshal(&anypb.Any{TypeUrl: "x/y", Value: bytes.Repeat([]byte("v"), 300)})
	if err != nil {
		t.Fatal(err)
	}
	got := wire.AppendBytes(wire.AppendBytes(nil, 1, "x/y"), 2, bytes.Repeat([]byte("v"), 300))
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	want, err = proto.Marshal(&timestamppb.Timestamp{Seconds: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	got = wire.AppendVarint(wire.AppendVarint(nil, 1, 1<<40), 2, 0)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// FuzzFields: what the generated type reads, we read the same way.
func FuzzFields(f *testing.F) {
	f.Add([]byte("\x0a\x03x/y\x12\x01v"))
	f.Add([]byte("\x12\x00\x0d1234\x091234567\x00\x08\x01"))
	f.Fuzz(func(t *testing.T, message []byte) {
		var typeURL string
		var value []byte
		err := wire.Fields(message, func(f wire.Field) error {
			switch f.Number {
			case 1:
				f.Set(&typeURL)
			case 2:
				f.Set(&value)
			}
			return nil
		})
		var want anypb.Any
		if err != nil || proto.Unmarshal(message, &want) != nil {
			return // they take groups, and no strings that are not UTF-8
		}
		if typeURL != want.TypeUrl || !bytes.Equal(value, want.Value) {
			t.Errorf("got %q %x, want %q %x", typeURL, value, want.TypeUrl, want.Value)
		}
	})
}
