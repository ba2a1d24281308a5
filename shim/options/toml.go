package options

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decodeTOML reads the part of TOML that options need: lines of `Key = value`
// with a string, a number or a boolean. Keys match without regard to case and
// underscores, so that systemd_cgroup, as the protobuf has it, is SystemdCgroup.
// Whatever is not understood is an error: an option that is silently ignored
// is found out about much later.
func (o *Options) decodeTOML(text string) error {
	fields := o.fields()
	seen := make([]bool, len(fields))
	for number, line := range strings.Split(text, "\n") {
		fail := func(format string, args ...any) error {
			return fmt.Errorf("line %d: %w", number+1, fmt.Errorf(format, args...))
		}
		line = trim(strings.TrimSuffix(line, "\r"))
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			return fail("tables such as %s are not supported, only Key = value", line)
		}
		key, rest, err := parseKey(line)
		if err != nil {
			return fail("%w", err)
		}
		i := find(fields, key)
		if i < 0 {
			return fail("unknown key %q", key)
		}
		if seen[i] {
			return fail("%s is set twice", fields[i].name)
		}
		seen[i] = true
		value, rest, err := parseValue(rest)
		if err != nil {
			return fail("%s: %w", key, err)
		}
		if rest = trim(rest); rest != "" && rest[0] != '#' {
			return fail("%s: unexpected %q after the value", key, rest)
		}
		if err := set(fields[i].value, value); err != nil {
			return fail("%s: %w", key, err)
		}
	}
	return nil
}

func find(fields []field, key string) int {
	key = strings.ReplaceAll(key, "_", "")
	for i, f := range fields {
		if strings.EqualFold(f.name, key) {
			return i
		}
	}
	return -1
}

func set(to, value any) error {
	switch to := to.(type) {
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return fmt.Errorf("%v is not true or false", value)
		}
		*to = b
	case *string:
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf("%v is not a string: put it in quotes", value)
		}
		*to = s
	case *uint32:
		n, ok := value.(int64)
		if !ok || n != int64(uint32(n)) {
			return fmt.Errorf("%v is not a number from 0 to 4294967295", value)
		}
		*to = uint32(n)
	}
	return nil
}

func trim(s string) string { return strings.Trim(s, " \t") }

// parseKey returns the key and what follows its "=".
func parseKey(line string) (key, rest string, err error) {
	if line[0] == '"' || line[0] == '\'' {
		key, rest, err = parseString(line)
		if err != nil {
			return "", "", err
		}
	} else {
		end := strings.IndexFunc(line, func(r rune) bool {
			return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
		if end < 0 {
			end = len(line)
		}
		key, rest = line[:end], line[end:]
	}
	rest = trim(rest)
	if strings.HasPrefix(rest, ".") {
		return "", "", fmt.Errorf("tables such as %s are not supported, only Key = value", line)
	}
	if key == "" || !strings.HasPrefix(rest, "=") {
		return "", "", fmt.Errorf("%q is not of the form Key = value", line)
	}
	return key, trim(rest[1:]), nil
}

// parseValue returns a bool, int64 or string and what follows it.
func parseValue(s string) (value any, rest string, err error) {
	if s == "" {
		return nil, "", fmt.Errorf("no value")
	}
	if s[0] == '"' || s[0] == '\'' {
		return parseString(s)
	}
	word := s
	if end := strings.IndexAny(s, " \t#"); end >= 0 {
		word, rest = s[:end], s[end:]
	}
	switch word {
	case "true", "false":
		return word == "true", rest, nil
	}
	if n, err := strconv.ParseInt(word, 10, 64); err == nil {
		return n, rest, nil
	}
	return nil, "", fmt.Errorf("%s is not a string in quotes, a number, true or false", word)
}

// parseString reads "a basic string" or 'a literal one'.
func parseString(s string) (value, rest string, err error) {
	quote := s[0]
	if strings.HasPrefix(s, strings.Repeat(string(quote), 3)) {
		return "", "", fmt.Errorf("strings over several lines are not supported")
	}
	var b strings.Builder
	for i := 1; i < len(s); {
		c := s[i]
		i++
		switch {
		case c == quote:
			if !utf8.ValidString(b.String()) {
				return "", "", fmt.Errorf("the string %q is not UTF-8", b.String())
			}
			return b.String(), s[i:], nil
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", "", fmt.Errorf("control character %#02x in a string", c)
		case c == '\\' && quote == '"':
			r, size, err := unescape(s[i:])
			if err != nil {
				return "", "", err
			}
			b.WriteRune(r)
			i += size
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("the string %s has no end", s)
}

// unescape reads what follows a backslash, and tells how long that was.
func unescape(s string) (r rune, size int, err error) {
	if s == "" {
		return 0, 0, fmt.Errorf("the string has no end")
	}
	var digits int
	switch s[0] {
	case 'b':
		return '\b', 1, nil
	case 't':
		return '\t', 1, nil
	case 'n':
		return '\n', 1, nil
	case 'f':
		return '\f', 1, nil
	case 'r':
		return '\r', 1, nil
	case '"', '\\':
		return rune(s[0]), 1, nil
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		return 0, 0, fmt.Errorf(`unknown escape \%c`, s[0])
	}
	if len(s) <= digits {
		return 0, 0, fmt.Errorf("the string has no end")
	}
	n, err := strconv.ParseUint(s[1:1+digits], 16, 32)
	if err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
		return 0, 0, fmt.Errorf(`\%s is not a character`, s[:1+digits])
	}
	return rune(n), 1 + digits, nil
}
