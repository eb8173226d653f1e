package attempt_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

// transport reaches a store in this process. The first answer to a Commit is lost on its
// way.
type transport struct {
	mu   sync.Mutex
	tree *kvtree.Tree
	lost bool
}

// Send applies one copy in one transaction with the marker and the caller's Txn.
func (t *transport) Send(_ context.Context, r attempt.Request) (attempt.Answer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rev := t.tree.Revision() + 1
	err := t.tree.Commit(rev, r.Whole(""), kvtree.Options{Rebind: true})
	var conflict *kvtree.Conflict
	switch {
	case errors.As(err, &conflict):
		return attempt.Answer{Outcome: attempt.Refused}, nil
	case errors.Is(err, kvtree.ErrLease):
		return attempt.Answer{Outcome: attempt.LeaseLost}, nil
	case err != nil: // the store refused the copy
		return attempt.Answer{}, fmt.Errorf("%w: %w", attempt.ErrNotSent, err)
	case len(r.Txn.Then) > 0 && !t.lost:
		t.lost = true
		return attempt.Answer{}, errors.New("connection reset")
	}
	return attempt.Answer{Outcome: attempt.Applied, Revision: rev}, nil
}

// Read reads the keys one by one.
func (t *transport) Read(_ context.Context, keys ...string) ([]dcs.Entry, error) {
	var out []dcs.Entry
	for _, k := range keys {
		if e, ok := t.tree.Get(k); ok {
			out = append(out, e)
		}
	}
	return out, nil
}

// The answer to the first copy is lost. The second copy finds the nonce of this Commit in
// the marker. The Commit was therefore applied, and it is written once.
func ExampleCommitter() {
	t := &transport{tree: kvtree.New()}
	commits := attempt.New(t, attempt.Options{Backend: "example"})
	defer func() { _ = commits.Close() }()

	rev, err := commits.Commit(context.Background(), dcs.Txn{
		If:   []dcs.Cond{dcs.Absent("leader")},
		Then: []dcs.Write{dcs.Put("leader", []byte("a"))},
	})
	e, _ := t.tree.Get("leader")
	fmt.Println(err, rev == e.Created, e.Created == e.Modified)

	_, err = commits.Commit(context.Background(), dcs.Txn{
		If:   []dcs.Cond{dcs.Absent("leader")},
		Then: []dcs.Write{dcs.Put("leader", []byte("b"))},
	})
	fmt.Println(errors.Is(err, dcs.ErrConflict), errors.Is(err, dcs.ErrAmbiguous))
	// Output:
	// <nil> true true
	// true false
}
