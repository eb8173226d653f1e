package memstore

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

const name = "memstore"

// Backend is one client of a [Server]. It implements [dcs.Backend] and [dcs.Settler] and
// is passed to [dcs.New]. All methods are safe for concurrent use.
type Backend struct {
	s         *Server
	o         ClientOptions
	endpoints []string
	markers   string // the prefix of the client's attempt markers
	commits   *attempt.Committer
	rand      io.Reader // guarded by randMu
	randMu    sync.Mutex

	current     atomic.Int32  // index of the endpoint in use
	minRevision atomic.Uint64 // the largest revision that an answer has carried

	done      chan struct{} // closed by Close: ends every call
	closeOnce sync.Once
	onClose   func()
}

var (
	_ dcs.Backend = (*Backend)(nil)
	_ dcs.Settler = (*Backend)(nil)
)

// Open returns a new client of s. It does no I/O. A client that only reads writes
// nothing to the store.
func (s *Server) Open(o ClientOptions) *Backend {
	o = o.withDefaults()
	s.mu.Lock()
	s.clients++
	markers := fmt.Sprintf(".op/%d", s.clients)
	if o.Name == "" {
		o.Name = fmt.Sprintf("c%d", s.clients)
	}
	s.mu.Unlock()
	if o.Endpoints == nil {
		o.Endpoints = s.endpoints()
	}
	b := &Backend{s: s, o: o, endpoints: o.Endpoints, markers: markers, rand: crand.Reader, done: make(chan struct{})}
	if o.Seed != 0 {
		var seed [32]byte
		binary.LittleEndian.PutUint64(seed[:], o.Seed)
		b.rand = rand.NewChaCha8(seed)
	}
	b.commits = attempt.New(transport{b}, attempt.Options{
		Backend:        name,
		Slots:          o.Slots,
		Prefix:         markers,
		HedgeAfter:     func() time.Duration { return o.HedgeAfter },
		AttemptTimeout: o.AttemptTimeout,
		ModifiedOnly:   s.o.ModifiedOnly,
		Duplicates:     s.o.Duplicating,
		Rand:           lockedRand{b},
	})
	return b
}

// Name returns "memstore", for errors and logs.
func (b *Backend) Name() string { return name }

// ClientName returns the client's name in faults and counts.
func (b *Backend) ClientName() string { return b.o.Name }

// Root returns the name of the client's tree.
func (b *Backend) Root() string { return b.o.Root }

// Server returns the store, which has the fault injector.
func (b *Backend) Server() *Server { return b.s }

// Caps implements [dcs.Backend].
func (b *Backend) Caps() dcs.Caps {
	o := b.s.o
	return dcs.Caps{
		MinTTL: o.MinTTL, MaxTTL: o.MaxTTL,
		MaxValue: o.MaxValue, MaxTxnOps: o.MaxTxnOps, MaxTxnBytes: o.MaxTxnBytes,
		Rebind: !o.NoRebind, SelfExpiry: !o.NoSelfExpiry,
	}
}

// getAnswer is the answer to a Get.
type getAnswer struct {
	e   dcs.Entry
	ok  bool
	rev dcs.Revision
}

// Get implements [dcs.Backend].
func (b *Backend) Get(ctx context.Context, key string) (dcs.Entry, error) {
	a, err := request(ctx, b, Call{Op: OpGet, Keys: []string{key}}, func(r *root) getAnswer {
		e, ok := r.get(key)
		return getAnswer{e, ok, r.tree.Revision()}
	})
	f := a.v
	switch {
	case err != nil:
		return dcs.Entry{}, b.fail("Get", key, err)
	case !f.ok:
		return dcs.Entry{}, b.fail("Get", key, dcs.ErrNotFound)
	}
	b.raiseMinRevision(f.rev)
	return f.e, nil
}

// Snapshot implements [dcs.Backend].
func (b *Backend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	for {
		a, err := request(ctx, b, Call{Op: OpSnapshot, Keys: []string{prefix}}, func(r *root) dcs.Snapshot {
			return r.snapshot(prefix)
		})
		if err != nil {
			return dcs.Snapshot{}, b.fail("Snapshot", prefix, err)
		}
		// An answer that was under way for long may be older than a later one, and the
		// revisions that a Store returns must never fall.
		if b.raiseMinRevision(a.v.Revision) {
			return a.v, nil
		}
	}
}

// Commit implements [dcs.Backend].
func (b *Backend) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	rev, err := b.commits.Commit(ctx, t)
	b.raiseMinRevision(rev)
	return rev, err
}

// Settle implements [dcs.Settler].
func (b *Backend) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	rev, err := b.commits.Settle(ctx, e)
	b.raiseMinRevision(rev)
	return rev, err
}

// Close implements [dcs.Backend]. The server goes on. The client's leases run out like
// those of a process that crashed, and its markers are removed.
func (b *Backend) Close() error {
	b.closeOnce.Do(func() {
		close(b.done)
		_ = b.commits.Close() // it always returns nil
		b.s.sweep(b.o.Root, b.markers)
		if b.onClose != nil {
			b.onClose()
		}
	})
	return nil
}

// transport implements [attempt.Transport] for a client.
type transport struct{ b *Backend }

// Send implements [attempt.Transport].
func (t transport) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	op := OpCommit
	switch {
	case r.Marker.Create && len(r.Txn.Then) == 0:
		op = OpMark
	case len(r.Txn.Then) == 0:
		op = OpSettle
	}
	keys := r.Keys()
	named := keys[:len(keys):len(keys)]
	for _, w := range r.Txn.Then {
		named = append(named, w.Key)
	}
	c := Call{Op: op, Copy: r.Copy, Keys: named, Lease: r.Txn.Lease()}
	from := t.b.current.Load()
	c = t.b.address(c, from, r.Copy)
	a, err := send(ctx, t.b, c, func(root *root) applied { return root.apply(r.Whole(""), keys) })
	if err != nil {
		return attempt.Answer{}, err
	}
	t.b.noteEndpoint(from, c)
	a.Endpoint = c.Endpoint
	return a.Answer, a.err
}

// applied is the outcome of a transaction. An err is definite.
type applied struct {
	attempt.Answer
	err error
}

func (r *root) apply(t dcs.Txn, keys []string) applied {
	rev, err := r.commit(t)
	var conflict *kvtree.Conflict
	switch {
	case err == nil:
		return applied{Answer: attempt.Answer{Outcome: attempt.Applied, Revision: rev}}
	case errors.As(err, &conflict):
		return applied{Answer: attempt.Answer{Outcome: attempt.Refused, Seen: true, Entries: r.entries(keys)}}
	case errors.Is(err, kvtree.ErrLease):
		return applied{Answer: attempt.Answer{Outcome: attempt.LeaseLost, Seen: true, Entries: r.entries(keys)}}
	}
	return applied{err: notSent(&dcs.Error{Kind: dcs.ErrInvalid, Err: err})}
}

// Read implements [attempt.Transport].
func (t transport) Read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	a, err := request(ctx, t.b, Call{Op: OpRead, Keys: keys}, func(r *root) []dcs.Entry { return r.entries(keys) })
	return a.v, err
}

// lockedRand makes the client's source of randomness safe for several goroutines.
type lockedRand struct{ b *Backend }

func (r lockedRand) Read(p []byte) (int, error) {
	r.b.randMu.Lock()
	defer r.b.randMu.Unlock()
	return io.ReadFull(r.b.rand, p)
}
