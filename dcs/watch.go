package dcs

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"
)

// Watch yields the tree under prefix, then a newer one whenever it moved, each
// complete, until the loop over it or ctx ends it. Steps between two of them
// may be skipped, the last state never is.
//
// A store that cannot answer is yielded as an error and tried again, with
// growing random pauses, for as long as the loop goes on; the next tree is then
// newer than the last one. [ErrInvalid] and [ErrClosed] are yielded and end it.
// When ctx ends, Watch ends without a word: ask ctx.
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

// jitter is the pauses of one loop over failing calls, with full jitter: drawn from 0 to a bound that doubles, so that
// many clients of one store that comes back do not come at once.
type jitter struct {
	done       <-chan struct{} // ends a pause too
	base, most time.Duration
	bound      time.Duration
}

// newJitter returns the pauses of one loop.
func (s *Store) newJitter() *jitter {
	return &jitter{done: s.open.Done(), base: min(100*time.Millisecond, s.o.Timing.LoopWait), most: min(5*time.Second, s.o.Timing.LoopWait)}
}

func (b *jitter) reset() { b.bound = 0 }

// next returns the next pause.
func (b *jitter) next() time.Duration {
	b.bound = min(max(b.base, 2*b.bound), b.most)
	return rand.N(b.bound) + 1 //nolint:gosec // G404: jitter needs no secrecy
}

// sleep pauses and reports whether to go on: false when ctx ended. A closed
// Store ends the pause at once, and the next call says so.
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
