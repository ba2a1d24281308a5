package command

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// members calls f with each member of the JSON object in r until it returns
// false. f reads the value, or skips it.
//
// This is not encoding/json for two reasons: its packages alone take 0.2 ms to
// initialise, and its decoder goes through all of a config.json, which has
// 100 KB in a large pod, twice, where one pass over the first part will do.
func members(r io.Reader, f func(key string, s *scanner) bool) error {
	s := &scanner{r: r, buf: make([]byte, 0, 16<<10)}
	s.object(func(key string) bool { return f(key, s) })
	return s.err
}

// scanner reads JSON from front to back, and keeps the first error.
type scanner struct {
	r     io.Reader
	buf   []byte
	at    int // of the next byte in buf
	past  int // bytes before buf
	depth int
	err   error
}

const maxDepth = 1000 // encoding/json's limit is 10000

// peek returns the next byte, 0 at the end or after an error.
func (s *scanner) peek() byte {
	for s.at == len(s.buf) {
		if s.err != nil {
			return 0
		}
		s.past += len(s.buf)
		n, err := s.r.Read(s.buf[:cap(s.buf)])
		s.buf, s.at = s.buf[:n], 0
		if n == 0 && err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			s.fail(err)
		}
	}
	if s.err != nil {
		return 0
	}
	return s.buf[s.at]
}

func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = fmt.Errorf("at byte %d: %w", s.past+s.at, err)
	}
}

func (s *scanner) next() byte {
	c := s.peek()
	if s.err == nil {
		s.at++
	}
	return c
}

// token returns the next byte that is not white space, without taking it.
func (s *scanner) token() byte {
	for {
		switch c := s.peek(); c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
}

func (s *scanner) expect(want byte) {
	if c := s.token(); c == want {
		s.at++
	} else if s.err == nil {
		s.fail(fmt.Errorf("%q where %q belongs", c, want))
	}
}

// object calls f with each key; f takes the value, and returns false to stop.
func (s *scanner) object(f func(key string) bool) {
	s.list('{', '}', func() bool {
		key := s.text()
		s.expect(':')
		return s.err == nil && f(key)
	})
}

func (s *scanner) list(open, end byte, element func() bool) {
	s.expect(open)
	if s.depth++; s.depth > maxDepth {
		s.fail(errors.New("nested too deeply"))
	}
	if s.token() == end {
		s.at++
		s.depth--
		return
	}
	for s.err == nil {
		if !element() {
			return
		}
		if s.token() == end {
			s.at++
			break
		}
		s.expect(',')
	}
	s.depth--
}

// skip reads over a value of any kind.
func (s *scanner) skip() {
	switch c := s.token(); c {
	case '{':
		s.object(func(string) bool { s.skip(); return true })
	case '[':
		s.list('[', ']', func() bool { s.skip(); return true })
	case '"':
		s.raw(false)
	default:
		// A number or a word; which ones are valid, the one who reads it
		// for its meaning will say.
		for n := 0; ; n++ {
			c := s.peek()
			if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '.' && c != '-' && c != '+' && c != 'E' {
				if n == 0 && s.err == nil {
					s.fail(fmt.Errorf("%q where a value belongs", c))
				}
				return
			}
			s.at++
		}
	}
}

// text reads a string.
func (s *scanner) text() string {
	raw := s.raw(true)
	for i, c := range raw {
		if c == '\\' {
			return s.unescape(raw[:i:i], raw[i:])
		}
	}
	return string(raw)
}

// raw reads a string, and returns what is between its quotes if keep is set.
func (s *scanner) raw(keep bool) []byte {
	s.expect('"')
	var text []byte
	for s.err == nil {
		s.peek()
		plain := s.buf[s.at:]
		n := 0
		for n < len(plain) && plain[n] != '"' && plain[n] != '\\' && plain[n] >= ' ' {
			n++
		}
		if keep {
			text = append(text, plain[:n]...)
		}
		s.at += n
		switch c := s.peek(); {
		case c == '"':
			s.at++
			return text
		case c == '\\':
			s.at++
			escaped := s.next()
			if keep {
				text = append(text, c, escaped)
			}
		case c < ' ' && s.err == nil:
			s.fail(fmt.Errorf("control character %#02x in a string", c))
		}
	}
	return nil
}

// unescape appends escaped to text, with its escapes replaced.
func (s *scanner) unescape(text, escaped []byte) string {
	for len(escaped) > 0 {
		c := escaped[0]
		if c != '\\' {
			text, escaped = append(text, c), escaped[1:]
			continue
		}
		c, escaped = escaped[1], escaped[2:]
		switch c {
		case '"', '\\', '/':
			text = append(text, c)
		case 'b':
			text = append(text, '\b')
		case 'f':
			text = append(text, '\f')
		case 'n':
			text = append(text, '\n')
		case 'r':
			text = append(text, '\r')
		case 't':
			text = append(text, '\t')
		case 'u':
			r, ok := unit(escaped)
			if !ok {
				s.fail(errors.New("a \\u without four hexadecimal digits"))
				return ""
			}
			escaped = escaped[4:]
			if len(escaped) >= 6 && escaped[0] == '\\' && escaped[1] == 'u' {
				low, _ := unit(escaped[2:])
				if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
					r, escaped = pair, escaped[6:]
				}
			}
			text = utf8.AppendRune(text, r)
		default:
			s.fail(fmt.Errorf("unknown escape \\%c", c))
			return ""
		}
	}
	return string(text)
}

// unit reads one UTF-16 code unit, of which a surrogate pair has two.
func unit(digits []byte) (rune, bool) {
	if len(digits) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits[:4]), 16, 16)
	return rune(n), err == nil
}
