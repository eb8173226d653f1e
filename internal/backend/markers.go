package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Markers keeps the lease of the attempt markers, so that the markers of a crashed process
// are removed. The lease is granted for the first marker, so that a client which only reads
// has none.
type Markers struct {
	// Grant grants a lease, or returns a Failure with its endpoint.
	Grant func(ctx context.Context, ttl time.Duration) (dcs.Lease, error)
	// Budget bounds the Grant and each renewal. The end of Life ends them.
	Budget time.Duration
	Life   context.Context //nolint:containedctx // the Backend's end

	granting Flight[dcs.Lease]

	mu     sync.Mutex
	held   dcs.Lease
	closed bool
	stop   context.CancelFunc
	done   sync.WaitGroup
}

const (
	markerTTL   = 5 * time.Minute
	markerRenew = markerTTL / 4
	goodbye     = 500 * time.Millisecond
)

// Lease returns the lease for a new marker, by the end of ctx. Its error is that of a copy
// that was not sent, because the marker was not sent, even if the lease was granted.
// A Grant ends with the deadline of the caller that began it, so that the caller gets its
// error. Another caller then begins the next one. If that one has no time for an answer,
// its caller gets the reason for which the former one failed.
func (m *Markers) Lease(ctx context.Context) (dcs.LeaseID, error) {
	var reason error
	for {
		limit := m.Budget
		if deadline, ok := ctx.Deadline(); ok {
			limit = min(limit, time.Until(deadline))
		}
		if reason != nil && limit <= 0 {
			return "", NotSent(reason)
		}
		l, err := m.granting.Do(ctx, m.Life, limit, m.current, m.grant)
		if err == nil {
			return l.ID(), nil
		}
		if reason == nil || err != context.DeadlineExceeded { //nolint:errorlint // by itself it says nothing
			reason = err
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return "", NotSent(reason)
		}
	}
}

func (m *Markers) current() (dcs.Lease, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held, m.held != nil
}

// grant grants the lease and renews it from then on. A lease that is granted after Close is
// revoked.
func (m *Markers) grant(ctx context.Context) (dcs.Lease, error) {
	l, err := m.Grant(ctx, markerTTL)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		go giveBack(l) //nolint:gosec // G118: it must outlive the Grant
		return nil, dcs.ErrClosed
	}
	m.held = l
	if m.stop == nil {
		life, stop := context.WithCancel(m.Life)
		m.stop = stop
		m.done.Add(1)
		go m.renew(life)
	}
	return l, nil
}

// NotSent returns the Failure of a step before or after a write that was not sent, or was
// refused. The copy wrote nothing, and another endpoint may succeed.
func NotSent(err error) error {
	var f *Failure
	if !errors.As(err, &f) {
		return &Failure{Err: err, Refused: true, Blame: true}
	}
	g := *f
	g.Refused = true
	return &g
}

// Lost removes the lease that the store does not know any more, and reports whether it was
// the present one.
func (m *Markers) Lost(id dcs.LeaseID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil || m.held.ID() != id {
		return false
	}
	m.held = nil
	return true
}

func (m *Markers) renew(ctx context.Context) {
	defer m.done.Done()
	t := time.NewTicker(markerRenew)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		m.mu.Lock()
		held := m.held
		m.mu.Unlock()
		if held == nil {
			continue
		}
		one, cancel := context.WithTimeout(ctx, m.Budget)
		_, err := held.Renew(one)
		cancel()
		if dcs.KindOf(err) == dcs.ErrLost { //nolint:errorlint // KindOf returns a sentinel
			m.Lost(held.ID())
		}
	}
}

// Close revokes the lease, if the store answers at once.
func (m *Markers) Close() {
	m.mu.Lock()
	held, stop := m.held, m.stop
	m.held, m.closed = nil, true
	m.mu.Unlock()
	if stop != nil {
		stop()
		m.done.Wait()
	}
	if held != nil {
		giveBack(held)
	}
}

func giveBack(l dcs.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	_ = l.Revoke(ctx) // otherwise the lease expires
}
