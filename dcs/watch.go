package dcs

import (
	"context"
	"errors"
	"iter"
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
	for failures := 0; ctx.Err() == nil; {
		snap, err := next(first)
		switch {
		case err == nil:
			first, failures = false, 0
			if !yield(snap, nil) {
				return
			}
		case ctx.Err() != nil:
			return
		case !yield(Snapshot{}, err) || !errors.Is(err, ErrUnavailable):
			return
		case !s.pauseWatch(ctx, failures):
			return
		default:
			failures++
		}
	}
}

// pauseWatch waits after a failure that the given number of failures preceded, and
// returns false if ctx ended. Closing the Store ends the pause at once, and the next
// call returns ErrClosed.
func (s *Store) pauseWatch(ctx context.Context, failures int) bool {
	loop := s.o.Timing.LoopWait
	b := backoff{first: min(100*time.Millisecond, loop), most: min(5*time.Second, loop)}
	t := time.NewTimer(b.delay(failures))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-s.open.Done():
	case <-t.C:
	}
	return true
}
