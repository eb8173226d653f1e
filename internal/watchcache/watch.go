package watchcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Stream is a backend's watch of the whole tree at one endpoint.
type Stream interface {
	// Follow reports the answers of the endpoint to the [Watch] until the stream
	// fails or ctx ends. It must begin at the Tree's revision, or read the tree first
	// if [Source] has no Read. It must return soon after ctx has ended.
	Follow(ctx context.Context) error
	// Probe returns nil when the endpoint has proven that it serves. Where the store
	// allows it, Probe should also bring the Tree up to the time of the call. It is
	// called concurrently with Follow, once at a time, and only after the endpoint's
	// first answer. It must return soon after ctx has ended.
	Probe(ctx context.Context) error
}

// Watch is one watch at one endpoint. Its [Stream] reports to it. The methods may be
// called by several goroutines.
type Watch struct {
	c       *Cache
	attempt *endpoint.Attempt // ended by the first answer or by the watch's failure
	monitor monitor
	opened  chan struct{} // receives the first answer

	applying sync.Mutex // held for each change of the Tree
}

func newWatch(c *Cache) *Watch {
	return &Watch{c: c, attempt: c.Pool.Pick(endpoint.List), monitor: newMonitor(c), opened: make(chan struct{}, 1)}
}

// errEjected ends a watch at an endpoint that the Pool has ejected or removed.
var errEjected = errors.New("watch ended: the endpoint was ejected or removed")

// watch watches at one endpoint until the watch fails, and reports the failure to the
// Pool.
func (c *Cache) watch(ctx context.Context) error {
	if err := c.Pool.Admit(ctx); err != nil {
		return err
	}
	w := newWatch(c)
	err := w.run(ctx, c.Stream(w))
	if ctx.Err() != nil {
		w.end(ctx.Err())
		return context.Cause(ctx)
	}
	w.judge(err)
	return &endpoint.Fault{Endpoint: w.Endpoint(), Err: err}
}

// judge reports the failure of the watch to the Pool exactly once. It is the failure
// of the attempt that opened the watch, or that of an endpoint that had answered
// before.
func (w *Watch) judge(err error) {
	var silent *silence
	isSilent := errors.As(err, &silent)
	switch {
	case errors.Is(err, errEjected):
		w.end(context.Canceled)
	case isSilent && w.end(context.DeadlineExceeded):
	case !isSilent && w.end(err):
	default:
		w.c.Pool.Failed(w.Endpoint(), err)
	}
}

// end ends the attempt that opened the watch, and reports whether that was still in
// flight.
func (w *Watch) end(err error) bool {
	if !w.monitor.open() {
		return false
	}
	w.attempt.End(err)
	return true
}

// run drives s until it fails.
func (w *Watch) run(ctx context.Context, s Stream) error {
	ctx, cancel := context.WithCancel(ctx)
	ended, probed := make(chan error, 1), make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { ended <- s.Follow(ctx) })
	err := w.loop(ctx, ended, probed, func() {
		running.Go(func() { probed <- s.Probe(ctx) })
	})
	cancel()
	running.Wait()
	for _, from := range []<-chan error{ended, probed} {
		select {
		case own := <-from:
			if own != nil && backend.Judge(own).Local {
				return own // the silence was caused inside this process
			}
		default:
		}
	}
	return err
}

// loop handles the events of the watch until it must end.
func (w *Watch) loop(ctx context.Context, ended, probed <-chan error, probe func()) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err = <-ended:
			if err == nil {
				err = errors.New("the server ended the watch without an error")
			}
		case err = <-probed:
			isLocal := err != nil && backend.Judge(err).Local
			w.monitor.probeEnded(err == nil)
			if err == nil {
				w.Heard()
			} else if isLocal {
				err = nil // the probe is sent again later
			}
		case addr := <-w.c.Left:
			if addr == w.Endpoint() {
				return errEjected
			}
			continue
		case <-w.opened:
		case <-w.c.Behind:
		case <-timer.C:
		}
		if err != nil {
			return asSilence(err)
		}
		due, wait, err := w.monitor.check()
		if err != nil {
			return err
		}
		if due {
			probe()
		}
		timer.Reset(wait)
	}
}

// silence is the error of a watch whose endpoint does not answer in time. It does
// not match the error of a context, because no caller's context has ended.
type silence struct{ text string }

func (s *silence) Error() string { return s.text }

// asSilence returns err, or a silence if err is the timeout of a request.
func asSilence(err error) error {
	var f *backend.Failure
	if errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &f) {
		return &silence{"no answer to a request of the watch: " + err.Error()}
	}
	return err
}

func silentFor(d time.Duration) error {
	return &silence{fmt.Sprintf("no answer on the watch for %v", d.Round(time.Millisecond))}
}

// Endpoint returns the endpoint to watch at.
func (w *Watch) Endpoint() string { return w.attempt.Endpoint() }

// Heard records an answer of the endpoint. It counts as a sign that the store serves
// only if the endpoint does not lag.
func (w *Watch) Heard() {
	first, current := w.monitor.noteAnswer()
	if first {
		w.attempt.End(nil)
		w.opened <- struct{}{}
	}
	if current {
		w.c.Alive()
	}
}

// Take makes the Tree equal to the whole tree that was read at rev. It fails like
// [Cache.Apply].
func (w *Watch) Take(rev dcs.Revision, entries []dcs.Entry) error {
	return w.change(func() error { return w.c.take(rev, entries) })
}

// TakeNewer is Take, but does nothing if the Tree is at rev or later.
func (w *Watch) TakeNewer(rev dcs.Revision, entries []dcs.Entry) error {
	return w.change(func() error {
		if rev <= w.c.Tree.Revision() {
			return nil
		}
		return w.c.take(rev, entries)
	})
}

// Apply applies the changes of the tree up to rev. It fails like [Cache.Apply].
func (w *Watch) Apply(rev dcs.Revision, wrote []dcs.Entry, deleted []string) error {
	return w.change(func() error { return w.c.apply(rev, wrote, deleted) })
}

// ApplyNewer is Apply for a store that may send changes again. It ignores changes that
// the Tree already has.
func (w *Watch) ApplyNewer(rev dcs.Revision, wrote []dcs.Entry, deleted []string) {
	_ = w.change(func() error {
		if rev > w.c.Tree.Revision() {
			w.c.Tree.Follow(rev, wrote, deleted)
		}
		return nil
	})
}

// change calls f, which changes the Tree, and records an answer if f succeeds.
func (w *Watch) change(f func() error) error {
	w.applying.Lock()
	err := f()
	w.applying.Unlock()
	if err == nil {
		w.Heard()
	}
	return err
}
