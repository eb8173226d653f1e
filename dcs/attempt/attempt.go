package attempt

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/bits"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Committer makes Commits over a Transport. It is safe for concurrent use.
type Committer struct {
	t       Transport
	o       Options
	pool    pool
	running sync.WaitGroup // calls and copies

	mu     sync.Mutex
	closed bool
	calls  map[int]context.CancelCauseFunc
	next   int

	rand sync.Mutex
}

// New returns a Committer. It sends nothing before the first Commit.
func New(t Transport, o Options) *Committer {
	o = o.withDefaults()
	return &Committer{t: t, o: o, pool: o.pool(), calls: map[int]context.CancelCauseFunc{}}
}

// Commit applies t and returns by ctx's deadline. It returns the revision of the
// writes, or a definite failure, or ErrAmbiguous. A definite failure is ErrConflict,
// ErrLost, ErrInvalid, or ErrUnavailable if nothing was written for another reason.
// The *dcs.Error of an ErrAmbiguous carries an Attempt, which Settle accepts. Commit
// can serve as the Commit of a [dcs.Backend].
func (c *Committer) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return 0, c.fail("Commit", "", err, nil)
	}
	defer end()
	sending, stop := c.sendingTime(ctx)
	defer stop()
	for {
		s, err := c.takeSlot(sending)
		if err != nil {
			return 0, err
		}
		h, err := c.newPendingAttempt(s, t)
		if err != nil {
			c.pool.release(s)
			return 0, c.fail("Commit", "", dcs.ErrUnavailable, err)
		}
		out := c.attempt(ctx, sending, h)
		if out == nil { // the marker was lost and nothing was applied
			s.forget()
			c.pool.release(s)
			continue
		}
		return out.answer(h, "Commit")
	}
}

// Settle settles the attempt of an *dcs.Error that Commit or Settle returned, by
// ctx's deadline. It can serve as the Settle of a [dcs.Settler]. If the attempt has
// been settled already, because its slot was needed, Settle sends nothing.
func (c *Committer) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	h, ok := e.Attempt.(*pendingAttempt)
	if !ok || h.c != c {
		if e.Fenced && e.Attempt == nil {
			return 0, e // the result is final
		}
		return 0, c.fail("Settle", e.Key, dcs.ErrInvalid, errors.New("the error carries no attempt of this store"))
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return 0, c.fail("Settle", h.key, err, nil)
	}
	defer end()
	return c.settle(ctx, h).answer(h, "Settle")
}

// Close ends the calls under way and waits for them and for every goroutine of the
// Committer. Later calls return ErrClosed. A Commit that may have been applied returns
// ErrAmbiguous, which then matches ErrClosed too.
func (c *Committer) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, cancel := range c.calls {
		cancel(dcs.ErrClosed)
	}
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// begin registers a call, so that Close can end it.
func (c *Committer) begin(ctx context.Context) (context.Context, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, dcs.ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	id := c.next
	c.next++
	c.calls[id] = cancel
	c.running.Add(1)
	return ctx, func() {
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
		cancel(nil)
		c.running.Done()
	}, nil
}

// sendingTime returns ctx shortened by the time that is reserved for settling.
func (c *Committer) sendingTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := time.Until(deadline)
	return context.WithDeadline(ctx, deadline.Add(-c.o.reserve(left)))
}

// takeSlot returns a slot whose marker was created and read. The caller owns it.
func (c *Committer) takeSlot(ctx context.Context) (*markerSlot, error) {
	s := c.pool.take(ctx, func(ctx context.Context, h *pendingAttempt) { c.settle(ctx, h) })
	if s != nil && ctx.Err() != nil { // the slot came too late
		c.pool.release(s)
		s = nil
	}
	if s == nil {
		return nil, c.outOfTime(ctx, &noSlotError{c.pool.size()})
	}
	if err := c.prepare(ctx, s); err != nil {
		c.pool.release(s)
		return nil, err
	}
	return s, nil
}

// outOfTime returns the error of a Commit whose time ended while nothing had been
// sent, or after every copy was refused.
func (c *Committer) outOfTime(ctx context.Context, why error) *dcs.Error {
	if cause := context.Cause(ctx); errors.Is(cause, dcs.ErrClosed) {
		return c.fail("Commit", "", dcs.ErrClosed, nil)
	}
	return c.fail("Commit", "", dcs.ErrUnavailable, cutShort(ctx, why))
}

func (c *Committer) fail(op, key string, kind, cause error) *dcs.Error {
	return &dcs.Error{Backend: c.o.Backend, Op: op, Key: key, Kind: kind, Err: cause}
}

// cutShort joins why with the cause of ctx, if ctx has ended.
func cutShort(ctx context.Context, why error) error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil:
		return why
	case why == nil || errors.Is(why, cause):
		return cause
	}
	return &causes{cause, why}
}

// causes shows two errors in one line.
type causes [2]error

func (e *causes) Error() string   { return e[0].Error() + ": " + e[1].Error() }
func (e *causes) Unwrap() []error { return e[:] }

// random returns n random bytes.
func (c *Committer) random(n int) ([]byte, error) {
	c.rand.Lock()
	defer c.rand.Unlock()
	b := make([]byte, n)
	_, err := io.ReadFull(c.o.Rand, b)
	return b, err
}

// name returns a new name for a marker.
func (c *Committer) name() (string, error) {
	b, err := c.random(16)
	return c.o.Prefix + "/" + hex.EncodeToString(b), err
}

// jitter returns a random duration in (0, ceiling].
func (c *Committer) jitter(ceiling time.Duration) time.Duration {
	b, err := c.random(8)
	if err != nil {
		return ceiling
	}
	hi, _ := bits.Mul64(binary.LittleEndian.Uint64(b), uint64(ceiling))
	return time.Duration(hi) + 1
}
