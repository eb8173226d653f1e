package dcs

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"
)

// Watch yields the tree under prefix and then a newer Snapshot whenever it has
// changed, each complete, until the loop ends or ctx does. It may skip states in
// between, and never misses the last state.
//
// If the store does not answer, Watch yields the error and tries again with growing
// random pauses for as long as the loop goes on. The next Snapshot is then newer than
// the last one. Watch yields [ErrInvalid] and [ErrClosed] and ends. It ends without
// yielding an error when ctx is done; check ctx.Err.
func (s *Store) Watch(ctx context.Context, prefix string) iter.Seq2[Snapshot, error] {
	return func(yield func(Snapshot, error) bool) {
		var last Revision
		s.watch(ctx, yield, func(first bool) (snap Snapshot, err error) {
			if first {
				snap, err = s.Snapshot(ctx, prefix)
			} else {
				snap, err = s.waitNewer(ctx, prefix, last)
			}
			if err == nil {
				last = snap.Revision
			}
			return snap, err
		})
	}
}

// watch yields the results of next, as [Store.Watch] describes. first reports that
// nothing was returned yet.
func (s *Store) watch(ctx context.Context, yield func(Snapshot, error) bool, next func(first bool) (Snapshot, error)) {
	first := true
	pause := s.newJitter()
	for ctx.Err() == nil {
		snap, err := next(first)
		switch {
		case err == nil:
			first = false
			pause.reset()
			if !yield(snap, nil) {
				return
			}
		case ctx.Err() != nil:
			return
		case !yield(Snapshot{}, err) || !errors.Is(err, ErrUnavailable):
			return
		case !pause.sleep(ctx):
			return
		}
	}
}

// jitter computes the pauses of one loop over failing calls. A pause is random
// between 0 and a bound that doubles, so that the many clients of a store that comes
// back do not call at the same moment.
type jitter struct {
	done       <-chan struct{} // also ends a pause
	base, most time.Duration
	bound      time.Duration
}

// newJitter returns the pauses for one loop.
func (s *Store) newJitter() *jitter {
	return &jitter{done: s.open.Done(), base: min(100*time.Millisecond, s.o.Timing.LoopWait), most: min(5*time.Second, s.o.Timing.LoopWait)}
}

func (b *jitter) reset() { b.bound = 0 }

// next returns the next pause.
func (b *jitter) next() time.Duration {
	b.bound = min(max(b.base, 2*b.bound), b.most)
	return rand.N(b.bound) + 1 //nolint:gosec // G404: jitter needs no secrecy
}

// sleep pauses, and returns false if ctx ended. Closing the Store ends the pause at
// once, and the next call returns ErrClosed.
func (b *jitter) sleep(ctx context.Context) bool {
	t := time.NewTimer(b.next())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-b.done:
	case <-t.C:
	}
	return true
}
