package attempt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kv"
)

// step is what a scripted transport does with one copy.
type step int

const (
	answer  step = iota // apply it and answer
	lose                // apply it, lose the answer
	swallow             // it never arrives, nothing is heard
	hold                // it arrives when the test says so, nothing is heard
	repeat              // apply it twice, give the second answer
	down                // refuse it outright
	broken              // it never arrives, and an error says nothing
	vague               // it arrives when the test says so, its answer says nothing
	cross               // apply it, answer ErrFull
	full                // refuse it with ErrFull unless it only deletes
)

// kind is what a request is about.
type kindOfRequest int

const (
	commit kindOfRequest = iota
	create
	fencing
)

func kindOf(r Request) kindOfRequest {
	switch {
	case len(r.Txn.Then) > 0:
		return commit
	case r.Marker.Create:
		return create
	default:
		return fencing
	}
}

// store is a store whose answers follow a script.
type store struct {
	mu      sync.Mutex
	tree    *kv.Tree
	script  func(k kindOfRequest, r Request) step
	after   func(k kindOfRequest) // runs when a copy was applied, before its answer
	unseen  bool                  // refusals carry no entries
	noReads bool                  // reads are not answered
	refuse  error                 // what the next read fails with
	cutOff  bool                  // reads fail at once
	only    error                 // what down says besides ErrNotSent
	sent    map[kindOfRequest]int
	reads   int
	held    []func()
	at      []time.Duration // when commit copies were sent
	start   time.Time
}

var errFull = fmt.Errorf("%w: %w", ErrFull, &dcs.Error{Kind: dcs.ErrUnavailable, Endpoint: "a:1"})

// writes reports whether a store that is full refuses r.
func writes(r Request) bool {
	return slices.ContainsFunc(r.Whole("").Then, func(w dcs.Write) bool { return !w.Delete })
}

func newStore() *store {
	return &store{tree: kv.New(), sent: map[kindOfRequest]int{}, start: time.Now()}
}

func (s *store) apply(r Request) (Answer, error) {
	rev := s.tree.Revision() + 1
	err := s.tree.Commit(rev, r.Whole(""), kv.Options{Rebind: true})
	a := Answer{Outcome: Applied, Revision: rev}
	var c *kv.Conflict
	switch {
	case err == nil:
		return a, nil
	case errors.As(err, &c):
		a = Answer{Outcome: Refused}
	case errors.Is(err, kv.ErrLease):
		a = Answer{Outcome: LeaseLost}
	default:
		return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, &dcs.Error{Kind: dcs.ErrInvalid, Err: err})
	}
	if !s.unseen {
		a.Seen, a.Entries = true, s.entries(r.Keys())
	}
	return a, nil
}

func (s *store) entries(keys []string) (out []dcs.Entry) {
	for _, k := range keys {
		if e, ok := s.tree.Get(k); ok {
			out = append(out, e)
		}
	}
	return out
}

func (s *store) Send(ctx context.Context, r Request) (Answer, error) {
	s.mu.Lock()
	k, do := kindOf(r), answer
	if s.script != nil {
		do = s.script(k, r)
	}
	s.sent[k]++
	if k == commit {
		s.at = append(s.at, time.Since(s.start))
	}
	var a Answer
	var err error
	switch do {
	case answer, lose, repeat, cross, full:
		if do == full && writes(r) {
			err = errFull
			break
		}
		a, err = s.apply(r)
		if do == repeat {
			a, err = s.apply(r)
		}
		if do == cross {
			a, err = Answer{}, errFull
		}
		if s.after != nil {
			s.after(k)
		}
	case hold, vague:
		s.held = append(s.held, func() { _, _ = s.apply(r) })
	}
	s.mu.Unlock()
	switch do {
	case answer, repeat, cross, full:
		return a, err
	case down:
		if s.only != nil {
			return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, s.only)
		}
		return Answer{}, fmt.Errorf("%w: connection refused", ErrNotSent)
	case broken:
		return Answer{}, errors.New("connection reset")
	case vague:
		return Answer{}, nil
	}
	<-ctx.Done()
	return Answer{}, ctx.Err()
}

func (s *store) Read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	s.mu.Lock()
	silent := s.noReads
	s.reads++
	found, failed := s.entries(keys), s.refuse
	s.refuse = nil
	if s.cutOff {
		failed = errors.New("connection reset")
	}
	s.mu.Unlock()
	if failed != nil {
		return nil, failed
	}
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return found, nil
}

// land lets everything arrive that was held.
func (s *store) land() {
	for _, f := range s.held {
		f()
	}
	s.held = nil
}

// write is somebody else's write.
func (s *store) write(w ...dcs.Write) dcs.Revision {
	rev := s.tree.Revision() + 1
	if err := s.tree.Commit(rev, dcs.Txn{Then: w}, kv.Options{}); err != nil {
		panic(err)
	}
	return rev
}

func (s *store) value(key string) string {
	e, ok := s.tree.Get(key)
	if !ok {
		return "(absent)"
	}
	return string(e.Value)
}

// marker returns the only marker's key.
func (s *store) marker() string { return s.tree.Snapshot(".op").Entries[0].Key }

// loseMarkers removes every marker, as the end of their lease would.
func (s *store) loseMarkers() {
	for _, e := range s.tree.Snapshot(".op").Entries {
		s.write(dcs.Delete(e.Key))
	}
}

// onCopies scripts commit copies in the order given; later ones, and other
// requests, are answered.
func onCopies(steps ...step) func(kindOfRequest, Request) step {
	return func(k kindOfRequest, _ Request) step {
		if k != commit || len(steps) == 0 {
			return answer
		}
		do := steps[0]
		steps = steps[1:]
		return do
	}
}

// always scripts every request of the kinds given.
func always(do step, kinds ...kindOfRequest) func(kindOfRequest, Request) step {
	return func(k kindOfRequest, _ Request) step {
		if slices.Contains(kinds, k) {
			return do
		}
		return answer
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

const budget = 10 * time.Second

func hedged() Options {
	return Options{HedgeAfter: func() time.Duration { return 100 * time.Millisecond }}
}

func lock(value string) dcs.Txn {
	return dcs.Txn{If: []dcs.Cond{dcs.Absent("lock")}, Then: []dcs.Write{dcs.Put("lock", []byte(value))}}
}

func put(key, value string) dcs.Txn {
	return dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(value))}}
}

func run(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, body)
}

// runErr runs body in virtual time and requires that it returns no error.
func runErr(t *testing.T, body func(t *testing.T) error) {
	t.Helper()
	run(t, func(t *testing.T) {
		if err := body(t); err != nil {
			t.Error(err)
		}
	})
}

func kindIs(err, kind error) error {
	if got := dcs.KindOf(err); got != kind {
		return fmt.Errorf("got %w, want %w", err, kind)
	}
	return nil
}
