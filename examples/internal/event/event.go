// Package event is the line format in which the examples say what happens to
// leadership: one JSON object a line, so that a program can check a run.
package event

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// The names of events.
const (
	Leading   = "leading"   // holds the lock from now on; one per token
	Renewed   = "renewed"   // the deadline moved to DeadlineMono
	Unknown   = "unknown"   // a renewal failed: valid still, counting down
	Lost      = "lost"      // the hold ended without its owner's will
	Released  = "released"  // the hold was given up
	Following = "following" // somebody else leads
	Rotated   = "rotated"   // the store is reached through another server
	Error     = "error"     // something an operator should read
	Act       = "act"       // a scene of the demonstration begins
	Summary   = "summary"   // the end of a run
)

// Event is one line.
type Event struct {
	// T is the wall clock, for people: RFC 3339 with nanoseconds.
	T string `json:"t"`
	// Mono is CLOCK_MONOTONIC in nanoseconds: comparable between the
	// processes of one machine.
	Mono   int64  `json:"mono_ns"`
	Act    string `json:"act,omitempty"`
	Member string `json:"member,omitempty"`
	Event  string `json:"event"`
	// Token is the fencing token of the hold concerned.
	Token uint64 `json:"token,omitempty"`
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
	mu sync.Mutex
	w  io.Writer
}

// NewLog returns a Log that writes to w.
func NewLog(w io.Writer) *Log { return &Log{w: w} }

// Emit stamps e where it carries no stamp yet and writes it. Events are
// written in the order of their calls. An error of the writer is the reader's
// loss: there is nobody to tell.
func (l *Log) Emit(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e = Stamp(e)
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	_, _ = l.w.Write(append(line, '\n'))
}

// Stamp sets the times of e where they are not set. Both name one moment, an
// earlier one too.
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
