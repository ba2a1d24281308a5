// Package burst answers: did every byte that a container wrote arrive, in
// order and unbroken? A writer emits lines which each carry their own checksum,
// so that several writers can share a pipe; the reader counts and verifies.
package burst

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
)

// LineSize divides PIPE_BUF: whole lines written with one write(2) of at most
// PIPE_BUF bytes are never mixed with those of another writer.
const (
	LineSize = 64
	atomic   = 4096
)

// Write sends at least n bytes as writer number w, ending with a last line
// that tells how many there were.
func Write(out io.Writer, w int, n int64) error {
	count := max(1, (n+LineSize-1)/LineSize)
	buf := make([]byte, 0, atomic)
	for i := range count {
		kind := "."
		if i == count-1 {
			kind = "!"
		}
		buf = appendLine(buf, w, i, kind)
		if len(buf)+LineSize > atomic || i == count-1 {
			if _, err := out.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	return nil
}

func appendLine(buf []byte, w int, i int64, kind string) []byte {
	start := len(buf)
	buf = fmt.Appendf(buf, "%03d %010d %s ", w, i, kind)
	for len(buf)-start < LineSize-10 {
		buf = append(buf, 'a'+byte((int(i)+len(buf)-start)%26))
	}
	return fmt.Appendf(buf, " %08x\n", crc32.ChecksumIEEE(buf[start:]))
}

// Summary is what a reader found.
type Summary struct {
	Writers int   // that came to their last line
	Bytes   int64 // verified
}

// Check reads to the end. Any line that is broken, missing or out of its
// writer's order is an error, and so is a writer without its last line.
func Check(in io.Reader) (Summary, error) {
	var sum Summary
	next := map[int]int64{}
	r := bufio.NewReaderSize(in, 1<<16)
	line := make([]byte, LineSize)
	for {
		n, err := io.ReadFull(r, line)
		if err == io.EOF {
			break
		}
		if err != nil {
			return sum, fmt.Errorf("cut after %d bytes and %d of a line: %q: %w", sum.Bytes, n, line[:n], err)
		}
		var w int
		var i int64
		var kind string
		if _, err := fmt.Sscanf(string(line[:17]), "%03d %010d %s", &w, &i, &kind); err != nil {
			return sum, fmt.Errorf("after %d bytes: not a burst line: %q", sum.Bytes, line)
		}
		if want := appendLine(nil, w, i, kind); !bytes.Equal(line, want) {
			return sum, fmt.Errorf("after %d bytes: %q, want %q", sum.Bytes, line, want)
		}
		if i != next[w] {
			return sum, fmt.Errorf("after %d bytes: line %d of writer %d, want line %d", sum.Bytes, i, w, next[w])
		}
		next[w]++
		sum.Bytes += LineSize
		if kind == "!" {
			sum.Writers++
			delete(next, w)
		}
	}
	for w, i := range next {
		return sum, fmt.Errorf("writer %d stops after line %d without its last one", w, i)
	}
	return sum, nil
}
