package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// shellQuote makes one word for a POSIX shell out of any text.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// oneLine is a message as one line of output: a string without control
// characters is shown bare, any other JSON value as it is. One with line breaks
// or other control characters is shown quoted, so that a line is always one
// message and a publisher cannot send escape sequences to somebody's terminal.
func oneLine(message json.RawMessage) string {
	var text string
	if json.Unmarshal(message, &text) == nil && len(message) > 0 && message[0] == '"' {
		return printable(text)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, message); err != nil {
		return fmt.Sprintf("%q", message)
	}
	return printable(out.String())
}

// printable is s, or s quoted when it has characters that move the cursor,
// colour the terminal or reorder the line.
func printable(s string) string {
	unprintable := func(r rune) bool {
		return r != '\t' && (unicode.IsControl(r) || r == '\u2028' || r == '\u2029' ||
			unicode.Is(unicode.Bidi_Control, r))
	}
	if strings.ContainsFunc(s, unprintable) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// clock shows a moment to a person: the time alone when it is near.
func clock(t time.Time) string {
	t = t.Local()
	if d := time.Until(t); d > -12*time.Hour && d < 12*time.Hour {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// readLine reads one line, without the line break, for -p -.
func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// password is the value of -p, which may name standard input.
func (e *env) password(value string) (string, error) {
	if value == "-" {
		line, err := readLine(e.stdin)
		if err != nil {
			return "", err
		}
		value = line
	}
	if value == "" {
		return "", usagef("give a password with -p PASSWORD, or with -p - on standard input")
	}
	return value, nil
}
