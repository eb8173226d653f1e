package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// decidedIdentity is an Identity that waits for nothing.
func decidedIdentity() *Identity {
	i, id := new(Identity), "x"
	i.current.Store(&id)
	return i
}

// drowsy is a store that answers at once or much later, at every endpoint.
type drowsy struct {
	pool *endpoint.Pool

	mu            sync.Mutex
	after         time.Duration
	first, hedges int // copies
}

func (s *drowsy) Read(_ context.Context, keys ...string) ([]dcs.Entry, error) {
	return []dcs.Entry{{Key: keys[0], Created: 1, Modified: 1}}, nil // the marker
}

func (s *drowsy) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	if r.Marker.Create {
		return attempt.Answer{Outcome: attempt.Applied, Revision: 1}, nil
	}
	s.mu.Lock()
	after := s.after
	if r.Hedge {
		s.hedges++
	} else {
		s.first++
	}
	s.mu.Unlock()
	return Send(ctx, s.pool, decidedIdentity(), nil, r, Anywhere, func(ctx context.Context, addr string, _ dcs.LeaseID) (attempt.Answer, error) {
		select {
		case <-time.After(after):
			return attempt.Answer{Outcome: attempt.Applied, Revision: 2, Endpoint: addr}, nil
		case <-ctx.Done():
			return attempt.Answer{}, ctx.Err()
		}
	})
}

func (s *drowsy) takes(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = after
}

func (s *drowsy) committer() *attempt.Committer {
	return attempt.New(s, CommitOptions(s.pool, attempt.Options{Backend: "test"}))
}

// The second copies of Commits count towards the common budget of hedges. A store that is
// slow at every endpoint does not get two copies of every request.
func TestCommitsAreHedgedAsOftenAsReads(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := endpoint.New(endpoint.Options{Backend: "test", Seeds: []string{"a", "b", "c"}, Budget: 3 * time.Second})
		defer p.Close()
		s := &drowsy{pool: p}
		c := s.committer()
		defer c.Close()
		const calls = 200
		for i := range calls {
			s.takes(time.Millisecond)
			if i%4 == 3 {
				s.takes(200 * time.Millisecond)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			_, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
			cancel()
			require.NoError(t, err)
		}
		require.Equal(t, calls, s.first)
		require.NotZero(t, s.hedges)
		require.LessOrEqual(t, s.hedges, 15, "of %d slow ones", calls/4)
	})
}

// A write that takes longer than the timeout of a copy still gets its answer.
func TestSlowWritesGetThrough(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := endpoint.New(endpoint.Options{Backend: "test", Seeds: []string{"a", "b", "c"}, Budget: 3 * time.Second})
		defer p.Close()
		s := &drowsy{pool: p, after: 700 * time.Millisecond}
		c := s.committer()
		defer c.Close()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		require.NoError(t, err)
		require.Equal(t, s.after, time.Since(began))
		require.Equal(t, 2, s.first, "another copy went to another endpoint meanwhile")
	})
}

var errDenied = errors.New("denied")

// A Commit that one server refuses for a reason that may be its own, or that has a bad
// certificate, goes to the next server within the same copy. It is refused once all servers
// have refused it, and nothing was written then.
func TestCommitThatOneServerRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		refuse, untrusted, down []string
		served                  bool
		late                    bool // the error comes at the end of the budget
	}{
		"one":                            {refuse: []string{"a"}, served: true},
		"two":                            {refuse: []string{"a", "b"}, served: true},
		"all":                            {refuse: []string{"a", "b", "c"}},
		"all that can be reached":        {refuse: []string{"a", "b"}, down: []string{"c"}},
		"one, the others are down":       {refuse: []string{"b"}, down: []string{"a", "c"}},
		"none, and two are unheard":      {down: []string{"b", "c"}, served: true},
		"one is untrusted":               {untrusted: []string{"a"}, served: true},
		"two are untrusted":              {untrusted: []string{"a", "b"}, served: true},
		"all are untrusted":              {untrusted: []string{"a", "b", "c"}},
		"two in different ways":          {untrusted: []string{"a"}, refuse: []string{"b"}, served: true},
		"untrusted, the others are down": {untrusted: []string{"a"}, down: []string{"b", "c"}, late: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s, c := newRefuser(t)
				s.refuse, s.untrusted, s.down = row.refuse, row.untrusted, row.down
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				began := time.Now()
				_, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
				if row.served {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, dcs.ErrUnauthorized)
				require.NotErrorIs(t, err, dcs.ErrAmbiguous)
				require.Equal(t, row.late, time.Since(began) > time.Second)
			})
		})
	}
}

// A Commit goes on while all servers refuse it for a reason that passes, such as a password
// that is about to change.
func TestCommitThatAllServersRefuseForNow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, c := newRefuser(t)
		s.until = time.Now().Add(time.Second)
		for _, row := range []struct {
			budget time.Duration
			served bool
		}{{500 * time.Millisecond, false}, {3 * time.Second, true}} {
			ctx, cancel := context.WithTimeout(t.Context(), row.budget)
			_, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
			cancel()
			require.Equal(t, row.served, err == nil, "%v", err)
			if !row.served {
				require.ErrorIs(t, err, dcs.ErrUnauthorized)
				require.NotErrorIs(t, err, dcs.ErrAmbiguous)
			}
		}
	})
}

// refuser is a store of which some servers refuse, have a bad certificate, or are down.
type refuser struct {
	pool                    *endpoint.Pool
	refuse, untrusted, down []string
	until                   time.Time // all servers refuse before it
}

// newRefuser returns a refuser with the servers a, b and c, which are asked in this order.
func newRefuser(t *testing.T) (*refuser, *attempt.Committer) {
	p := endpoint.New(endpoint.Options{
		Backend: "test", Seeds: []string{"a", "b", "c"}, Budget: 3 * time.Second, Judge: Judge, Rand: func(int64) int64 { return 0 },
	})
	s := &refuser{pool: p}
	c := attempt.New(s, CommitOptions(p, attempt.Options{Backend: "test"}))
	t.Cleanup(func() {
		c.Close()
		p.Close()
	})
	return s, c
}

func (s *refuser) Read(_ context.Context, keys ...string) ([]dcs.Entry, error) {
	return []dcs.Entry{{Key: keys[0], Created: 1, Modified: 1}}, nil // the marker
}

func (s *refuser) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	if r.Marker.Create {
		return attempt.Answer{Outcome: attempt.Applied, Revision: 1}, nil
	}
	return Send(ctx, s.pool, decidedIdentity(), nil, r, Anywhere, func(_ context.Context, addr string, _ dcs.LeaseID) (attempt.Answer, error) {
		switch {
		case time.Now().Before(s.until):
			return attempt.Answer{}, &Failure{Endpoint: addr, Refused: true, Err: fmt.Errorf("%w: for now", dcs.ErrUnauthorized)}
		case slices.Contains(s.refuse, addr):
			return attempt.Answer{}, &Failure{Endpoint: addr, Kind: dcs.ErrUnauthorized, Unconfirmed: true, Refused: true, Err: errDenied}
		case slices.Contains(s.untrusted, addr):
			return attempt.Answer{}, &Failure{Endpoint: addr, Kind: dcs.ErrUnauthorized, Blame: true, Unreachable: true, Refused: true, Err: errDenied}
		case slices.Contains(s.down, addr):
			return attempt.Answer{}, &Failure{Endpoint: addr, Unreachable: true, Refused: true, Err: errors.New("connection refused")}
		}
		return attempt.Answer{Outcome: attempt.Applied, Revision: 2, Endpoint: addr}, nil
	})
}
