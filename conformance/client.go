package conformance

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// client is one independent client of the store.
type client struct {
	answers atomic.Pointer[string] // the server that answered last

	*dcs.Store
	raw    dcs.Backend
	e      *env
	serial string // distinguishes the clients of a case

	mu      sync.Mutex
	states  []dcs.StateEvent
	closing chan struct{} // closed when the first Close has returned
}

// Close closes the Store. A second call waits for the first one on a channel, because Store
// waits on a mutex, during which a bubble's time stands still.
func (c *client) Close() error {
	c.mu.Lock()
	under := c.closing
	if under == nil {
		c.closing = make(chan struct{})
		defer close(c.closing)
	}
	c.mu.Unlock()
	if under != nil {
		<-under
	}
	return c.Store.Close()
}

// open returns a new client. It is closed when the case ends.
func (e *env) open() *client { return e.wrap(e.s.Open(e)) }

// openAlone returns a client that Close really ends.
func (e *env) openAlone() *client {
	if e.s.OpenAlone != nil {
		return e.wrap(e.s.OpenAlone(e))
	}
	return e.open()
}

// openTimed returns a client with another timing, or with that of the harness if the
// harness cannot set it.
func (e *env) openTimed(t dcs.Timing) dcs.Backend {
	if !e.has(e.s.OpenWith != nil, "OpenWith") {
		return e.s.Open(e)
	}
	raw, err := e.s.OpenWith(e, Opening{Timing: t})
	if err != nil {
		e.Fatalf("OpenWith %v: %v", t, err)
	}
	return raw
}

func (e *env) wrap(raw dcs.Backend) *client { return e.wrapTimed(raw, e.timing) }

func (e *env) wrapTimed(raw dcs.Backend, t dcs.Timing) *client {
	c := &client{raw: raw, e: e, serial: strconv.FormatInt(e.clients.Add(1), 10)}
	s, err := dcs.New(raw, dcs.Options{
		Timing: t,
		Logger: slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observer: dcs.Observer{State: func(ev dcs.StateEvent) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.states = append(c.states, ev)
		}, Call: func(ev dcs.CallEvent) {
			if ev.Err == nil && ev.Endpoint != "" {
				c.answers.Store(&ev.Endpoint)
			}
		}},
	})
	if err != nil {
		_ = raw.Close() // it was never used
	}
	require.NoError(e, err, "dcs.New")
	c.Store = s
	e.Cleanup(func() {
		if err := c.Close(); err != nil {
			e.Errorf("closing a client: %v", err)
		}
	})
	return c
}

// pair returns two independent clients.
func (e *env) pair() (a, b *client) { return e.open(), e.open() }

// events returns the state events so far.
func (c *client) events() []dcs.StateEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]dcs.StateEvent(nil), c.states...)
}

// put writes one key and returns the revision.
func (c *client) put(key, value string) dcs.Revision {
	return c.commit(dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(value))}})
}

// del deletes one key and returns the revision.
func (c *client) del(key string) dcs.Revision {
	return c.commit(dcs.Txn{Then: []dcs.Write{dcs.Delete(key)}})
}

// commit commits t, which must succeed.
func (c *client) commit(t dcs.Txn) dcs.Revision {
	r, err := c.Commit(c.e.ctx, t)
	require.NoError(c.e, err, "Commit")
	if r == 0 {
		c.e.Fatal("Commit returned revision 0, which means absent")
	}
	return r
}

// get reads one key, which must exist.
func (c *client) get(key string) dcs.Entry {
	en, err := c.Get(c.e.ctx, key)
	require.NoError(c.e, err, "Get %q", key)
	require.Equal(c.e, key, en.Key)
	return en
}

// gone reports whether the key is absent.
func (c *client) gone(key string) bool {
	_, err := c.Get(c.e.ctx, key)
	if errors.Is(err, dcs.ErrNotFound) {
		return true
	}
	require.NoError(c.e, err, "Get %q", key)
	return false
}

// absent requires that the key does not exist.
func (c *client) absent(key string, why string) {
	if !c.gone(key) {
		c.e.Fatalf("%q exists: %s", key, why)
	}
}

// snapshot reads a tree.
func (c *client) snapshot(prefix string) dcs.Snapshot {
	s, err := c.Snapshot(c.e.ctx, prefix)
	require.NoError(c.e, err, "Snapshot %q", prefix)
	c.e.wellFormed(prefix, s)
	return s
}

// grant makes a lease with the harness's TTL.
func (c *client) grant() (dcs.Lease, dcs.Renewal) { return c.grantFor(c.e.timing.TTL) }

func (c *client) grantFor(ttl time.Duration) (dcs.Lease, dcs.Renewal) {
	l, r, err := c.Grant(c.e.ctx, ttl)
	require.NoError(c.e, err, "Grant")
	require.NotEmpty(c.e, l.ID(), "a lease has an id")
	return l, r
}

// session starts a session, closed when the case ends.
func (c *client) session() *dcs.Session { return c.sessionFor(dcs.Timing{}) }

// sessionFor is session with a timing of its own; zero means the client's.
func (c *client) sessionFor(t dcs.Timing) *dcs.Session {
	s, err := c.NewSession(c.e.ctx, dcs.SessionOptions{Timing: t})
	require.NoError(c.e, err, "NewSession")
	c.e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.e.budget())
		defer cancel()
		_ = s.Close(ctx) // the case may have ended its lease
	})
	return s
}

// acquire takes a lock that must be free.
func (e *env) acquire(s *dcs.Session, key, value string) *dcs.Hold {
	h, err := s.TryAcquire(e.ctx, key, []byte(value))
	require.NoError(e, err, "TryAcquire %q", key)
	if !h.Valid() {
		e.Fatal("a Hold that was just acquired is not Valid()")
	}
	if h.Token() == 0 {
		e.Fatal("the token is 0")
	}
	return h
}

// await follows the tree under prefix with Wait until cond holds, and fails if it does not
// hold within limit.
func (c *client) await(prefix string, limit time.Duration, what string, cond func(dcs.Snapshot) bool) dcs.Snapshot {
	ctx, cancel := context.WithTimeout(c.e.ctx, limit)
	defer cancel()
	s := c.snapshot(prefix)
	for !cond(s) {
		next, err := c.Wait(ctx, prefix, s.Revision)
		if err != nil {
			c.e.Fatalf("waited %v for %s: %v", limit, what, err)
		}
		if next.Revision <= s.Revision {
			c.e.Fatalf("Wait(since %d) returned revision %d", s.Revision, next.Revision)
		}
		s = next
	}
	return s
}

// awaitGone waits until key is absent.
func (c *client) awaitGone(key string, limit time.Duration) {
	c.await(key, limit, key+" to go", func(s dcs.Snapshot) bool {
		_, there := s.Get(key)
		return !there
	})
}

// wellFormed checks the properties of every Snapshot.
func (e *env) wellFormed(prefix string, s dcs.Snapshot) {
	if s.Revision == 0 {
		e.Fatalf("Snapshot(%q) is at revision 0, which means absent", prefix)
	}
	for i, en := range s.Entries {
		switch {
		case !dcs.Under(prefix, en.Key):
			e.Fatalf("Snapshot(%q) holds %q", prefix, en.Key)
		case i > 0 && s.Entries[i-1].Key >= en.Key:
			e.Fatalf("Snapshot(%q) is not sorted: %q before %q", prefix, s.Entries[i-1].Key, en.Key)
		case dcs.CheckKey(en.Key) != nil:
			e.Fatalf("Snapshot(%q) shows %q, which no user can have written", prefix, en.Key)
		case en.Created == 0 || en.Modified < en.Created || s.Revision < en.Modified:
			e.Fatalf("Snapshot(%q) at %d: %q was created at %d, modified at %d", prefix, s.Revision, en.Key, en.Created, en.Modified)
		}
	}
}

// tree returns a snapshot's keys and values, for comparisons.
func tree(s dcs.Snapshot) map[string]string {
	m := make(map[string]string, len(s.Entries))
	for _, en := range s.Entries {
		m[en.Key] = string(en.Value)
	}
	return m
}
