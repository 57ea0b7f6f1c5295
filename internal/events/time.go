package events

import "time"

// AppendTime appends a time as all clients and publishers are shown it: RFC 3339 in
// UTC, with milliseconds. It is written four times a message, and package time is
// three times as fast with the layout that it knows as with one of ours.
func AppendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	b = t.AppendFormat(b, time.RFC3339)
	ms := t.Nanosecond() / int(time.Millisecond)
	return append(b[:len(b)-1], '.', '0'+byte(ms/100), '0'+byte(ms/10%10), '0'+byte(ms%10), 'Z')
}
