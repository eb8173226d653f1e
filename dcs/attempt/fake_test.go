package attempt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

// step is the reaction of a scripted transport to one copy.
type step int

const (
	answer  step = iota // apply the copy and answer
	lose                // apply the copy and lose the answer
	swallow             // drop the copy and never answer
	hold                // deliver the copy when the test requests it, and never answer
	repeat              // apply the copy twice and return the second answer
	down                // refuse the copy with ErrNotSent
	broken              // drop the copy and return an unclassified error
	vague               // deliver the copy when the test requests it, and answer without an outcome
	cross               // apply the copy and return ErrFull
	full                // refuse the copy with ErrFull unless it only deletes
)

// kindOfRequest is the purpose of a request.
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
	tree    *kvtree.Tree
	script  func(k kindOfRequest, r Request) step
	after   func(k kindOfRequest) // runs after a copy was applied and before its answer
	unseen  bool                  // refusals carry no entries
	noReads bool                  // reads are not answered
	refuse  error                 // the error of the next read
	cutOff  bool                  // reads fail at once
	only    error                 // the error of down in addition to ErrNotSent
	sent    map[kindOfRequest]int
	reads   int
	held    []func()
	at      []time.Duration // when commit copies were sent
	start   time.Time
}

var errFull = fmt.Errorf("%w: %w", ErrFull, &dcs.Error{Kind: dcs.ErrUnavailable, Endpoint: "a:1"})

// writes reports whether a full store refuses r.
func writes(r Request) bool {
	return slices.ContainsFunc(r.Whole("").Then, func(w dcs.Write) bool { return !w.Delete })
}

func newStore() *store {
	return &store{tree: kvtree.New(), sent: map[kindOfRequest]int{}, start: time.Now()}
}

func (s *store) apply(r Request) (Answer, error) {
	rev := s.tree.Revision() + 1
	err := s.tree.Commit(rev, r.Whole(""), kvtree.Options{Rebind: true})
	a := Answer{Outcome: Applied, Revision: rev}
	var c *kvtree.Conflict
	switch {
	case err == nil:
		return a, nil
	case errors.As(err, &c):
		a = Answer{Outcome: Refused}
	case errors.Is(err, kvtree.ErrLease):
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

// land delivers every copy that was held.
func (s *store) land() {
	for _, f := range s.held {
		f()
	}
	s.held = nil
}

// write makes a write of another client.
func (s *store) write(w ...dcs.Write) dcs.Revision {
	rev := s.tree.Revision() + 1
	if err := s.tree.Commit(rev, dcs.Txn{Then: w}, kvtree.Options{}); err != nil {
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

// marker returns the key of the only marker.
func (s *store) marker() string { return s.tree.Snapshot(".op").Entries[0].Key }

// loseMarkers removes every marker, like the end of their lease.
func (s *store) loseMarkers() {
	for _, e := range s.tree.Snapshot(".op").Entries {
		s.write(dcs.Delete(e.Key))
	}
}

// onCopies scripts the copies of Commits in order. Later copies and other requests are
// answered.
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

// always scripts every request of the given kinds.
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
	bubble.Test(t, body)
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
