// Package event is the line format in which the examples report on
// leadership: one JSON object a line, so that a program can check a run.
package event

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// The names of events.
const (
	Leading   = "leading"   // the member holds the lock from now on; one for each leadership
	Renewed   = "renewed"   // the deadline moved to DeadlineMono
	Retaken   = "retaken"   // the leadership outlasted its lock, and its owner took the lock again with NewToken
	Unknown   = "unknown"   // a renewal failed, and the leadership is valid until its deadline
	Lost      = "lost"      // the leadership ended, and its owner did not release it
	Released  = "released"  // the owner released the leadership
	Fenced    = "fenced"    // the service was stopped by force
	Following = "following" // another member leads
	Rotated   = "rotated"   // the client uses another server of the store
	Error     = "error"     // an error that an operator should read
	Act       = "act"       // an act of the demonstration begins
	Summary   = "summary"   // the end of a run
)

// Event is one line.
type Event struct {
	// T is the wall clock in RFC 3339 with nanoseconds. Programs should use Mono.
	T string `json:"t"`
	// Mono is CLOCK_MONOTONIC in nanoseconds. It can be compared between the
	// processes of one machine.
	Mono   int64  `json:"mono_ns"`
	Act    string `json:"act,omitempty"`
	Member string `json:"member,omitempty"`
	Event  string `json:"event"`
	// Token is the fencing token of the hold concerned. All events of a leadership have
	// that of its first hold.
	Token uint64 `json:"token,omitempty"`
	// NewToken is the token of the present hold of a leadership that was retaken.
	NewToken uint64 `json:"new_token,omitempty"`
	// DeadlineMono is the CLOCK_MONOTONIC reading at which the hold stops
	// being valid without a further renewal.
	DeadlineMono int64  `json:"deadline_mono_ns,omitempty"`
	Endpoint     string `json:"endpoint,omitempty"`
	Leader       string `json:"leader,omitempty"`
	Reason       string `json:"reason,omitempty"`
	// Figures are the numbers of a summary.
	Figures map[string]int64 `json:"figures,omitempty"`
}

// Log writes events, one a line and each in a single Write, from any goroutine.
type Log struct {
	mu   sync.Mutex
	w    io.Writer
	text bool
}

// NewLog returns a Log that writes to w.
func NewLog(w io.Writer) *Log { return &Log{w: w} }

// NewText returns a Log that writes lines for people.
func NewText(w io.Writer) *Log { return &Log{w: w, text: true} }

// line is an event for people.
func line(e Event) string {
	out := e.T + " " + e.Member + " " + e.Event
	if e.Leader != "" && e.Leader != e.Member {
		out += " " + e.Leader
	}
	if e.Token != 0 {
		out += fmt.Sprintf(", token %d", e.Token)
	}
	if e.NewToken != 0 {
		out += fmt.Sprintf(", now token %d", e.NewToken)
	}
	if e.DeadlineMono != 0 && e.DeadlineMono > e.Mono {
		out += fmt.Sprintf(", valid for %v", time.Duration(e.DeadlineMono-e.Mono).Round(time.Millisecond))
	}
	if e.Endpoint != "" {
		out += " to " + e.Endpoint
	}
	if e.Reason != "" {
		out += ": " + e.Reason
	}
	return out
}

// Emit sets the times of e that are not set and writes it. Events are written in
// the order of their calls. Emit ignores an error of the writer, because it means
// that no reader is left.
func (l *Log) Emit(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e = Stamp(e)
	if l.text {
		_, _ = io.WriteString(l.w, line(e)+"\n")
		return
	}
	data, err := json.Marshal(e)
	if err != nil {
		return
	}
	_, _ = l.w.Write(append(data, '\n'))
}

// Stamp sets the times of e that are not set. If only Mono is set, T becomes the same
// moment.
func Stamp(e Event) Event {
	wall, mono := time.Now(), Mono()
	if e.Mono == 0 {
		e.Mono = mono
	}
	if e.T == "" {
		e.T = wall.Add(time.Duration(e.Mono - mono)).Format(time.RFC3339Nano)
	}
	return e
}
