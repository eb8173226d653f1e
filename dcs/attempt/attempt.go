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

// Commit applies t and answers by ctx's deadline: with the revision of the
// writes; with a definite no (ErrConflict, ErrLost, ErrInvalid, or
// ErrUnavailable where nothing was written for another reason); or with
// ErrAmbiguous, in an *dcs.Error whose Attempt Settle takes. It fits
// [dcs.Backend]'s Commit.
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
		if out == nil { // the marker was lost before this attempt could use it
			s.forget()
			c.pool.release(s)
			continue
		}
		return out.answer(h, "Commit")
	}
}

// Settle settles the attempt of an *dcs.Error that Commit or Settle returned,
// by ctx's deadline; it fits [dcs.Settler]. An attempt that was settled
// meanwhile, because its slot was needed, is answered without a request.
func (c *Committer) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	h, ok := e.Attempt.(*pendingAttempt)
	if !ok || h.c != c {
		if e.Fenced && e.Attempt == nil {
			return 0, e // there is nothing more to be found out
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

// Close ends the calls under way and waits for them and for every goroutine
// that the Committer started; later calls return ErrClosed. A Commit that may
// have been applied says ErrAmbiguous and matches ErrClosed.
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

// sendingTime returns ctx shortened by what is kept for settling.
func (c *Committer) sendingTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := time.Until(deadline)
	return context.WithDeadline(ctx, deadline.Add(-c.o.reserve(left)))
}

// slot returns a slot with its marker made and read, owned by the caller.
func (c *Committer) takeSlot(ctx context.Context) (*markerSlot, error) {
	s := c.pool.take(ctx, func(ctx context.Context, h *pendingAttempt) { c.settle(ctx, h) })
	if s != nil && ctx.Err() != nil { // it came too late
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

// over is the failure of a Commit of which nothing was sent, or everything
// refused, when its time ended.
func (c *Committer) outOfTime(ctx context.Context, why error) *dcs.Error {
	if cause := context.Cause(ctx); errors.Is(cause, dcs.ErrClosed) {
		return c.fail("Commit", "", dcs.ErrClosed, nil)
	}
	return c.fail("Commit", "", dcs.ErrUnavailable, cutShort(ctx, why))
}

func (c *Committer) fail(op, key string, kind, cause error) *dcs.Error {
	return &dcs.Error{Backend: c.o.Backend, Op: op, Key: key, Kind: kind, Err: cause}
}

// cutShort joins why with what ended ctx, if it has ended.
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

// causes is two errors of which both tell something, on one line.
type causes [2]error

func (e *causes) Error() string   { return e[0].Error() + ": " + e[1].Error() }
func (e *causes) Unwrap() []error { return e[:] }

// random reads n random bytes.
func (c *Committer) random(n int) ([]byte, error) {
	c.rand.Lock()
	defer c.rand.Unlock()
	b := make([]byte, n)
	_, err := io.ReadFull(c.o.Rand, b)
	return b, err
}

// name returns a marker's name that was never used before.
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
	hi, _ := bits.Mul64(binary.LittleEndian.Uint64(b), uint64(ceiling)) //nolint:gosec // G115: a positive constant
	return time.Duration(hi) + 1                                        //nolint:gosec // G115: less than ceiling
}
