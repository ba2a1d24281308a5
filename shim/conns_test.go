package shim

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzFrames: how a stream is cut into reads does not matter.
func FuzzFrames(f *testing.F) {
	frame := func(length uint32, kind, flags byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, length)
		b = append(b, 0, 0, 0, 1, kind, flags)
		return append(b, bytes.Repeat([]byte{kind}, int(length))...)
	}
	f.Add(bytes.Join([][]byte{frame(0, 1, 0), frame(3, 1, 0), frame(7, 2, 0), frame(1, 3, 1), frame(0, 3, 0)}, nil), uint8(3))
	f.Add(frame(300, 1, 0), uint8(9))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) {
		for _, wanted := range []func(kind, flags byte) bool{isRequest, isAnswer} {
			var want int64
			for rest := stream; len(rest) >= 10; {
				size := uint64(binary.BigEndian.Uint32(rest)) + 10
				if uint64(len(rest)) < size {
					break
				}
				if wanted(rest[8], rest[9]) {
					want++
				}
				rest = rest[size:]
			}
			var whole, cutUp frames
			var got int64
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), int(cut)+1)
				got += cutUp.count(rest[:n], wanted)
				rest = rest[n:]
			}
			if n := whole.count(stream, wanted); n != want || got != want {
				t.Errorf("%d as a whole, %d in parts of %d, want %d", n, got, int(cut)+1, want)
			}
		}
	})
}
