//go:build linux

package filestore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/attempt"
)

// Step 3: one writer at a time. A write costs two waits for the disk, however much it
// changes. The updates that wait meanwhile are therefore made together (group commit).

// queue has the updates of this process that wait for the lock of one directory.
type queue struct {
	turn chan struct{} // has an element while a goroutine makes updates

	mu   sync.Mutex
	jobs []*job
}

// job is an update that waits.
type job struct {
	ctx  context.Context //nolint:containedctx // of the call that waits for the job
	run  func(s *state, now time.Duration) (changed bool)
	done chan error // gets the outcome; an error that wraps ErrNotSent is definite
}

// queues has the queue of each directory.
var queues sync.Map

func queueOf(dir string) *queue {
	q, _ := queues.LoadOrStore(filepath.Clean(dir), &queue{turn: make(chan struct{}, 1)})
	return q.(*queue) //nolint:forcetypeassert // nothing else is in the map
}

func (q *queue) add(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = append(q.jobs, j)
}

func (q *queue) takeAll() []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	jobs := q.jobs
	q.jobs = nil
	return jobs
}

// remove reports whether j still waited. It will never run then.
func (q *queue) remove(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.jobs, j)
	if i < 0 {
		return false
	}
	q.jobs = slices.Delete(q.jobs, i, i+1)
	return true
}

// locked runs f on the state under the lock of the store, and saves the state if f reports
// a change. Expired leases are ended first, so that f never finds the key of one.
func (b *Store) locked(ctx context.Context, f func(s *state, now time.Duration) (changed bool)) error {
	j := &job{ctx: ctx, run: f, done: make(chan error, 1)}
	b.queue.add(j)
	select {
	case b.queue.turn <- struct{}{}:
		if jobs := b.queue.takeAll(); len(jobs) > 0 {
			b.runJobs(jobs)
		}
		<-b.queue.turn
		return <-j.done // it was among the jobs now, or before
	case err := <-j.done:
		return err
	case <-ctx.Done():
		if b.queue.remove(j) {
			return notSent(context.Cause(ctx))
		}
		return context.Cause(ctx) // it runs just now
	}
}

// runJobs makes the updates of jobs with one write. The kernel frees the lock of a process
// that ends.
func (b *Store) runJobs(jobs []*job) {
	err := func() error {
		lock, err := os.OpenFile(filepath.Join(b.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return notSent(err)
		}
		defer lock.Close() // which also frees the lock
		if err := flock(lock); err != nil {
			return notSent(err)
		}
		s, err := b.load()
		if err != nil {
			return notSent(err)
		}
		s = s.clone()
		// The clock must be read under the lock. A reading from before it would make a
		// lease shorter than its Renewal promises.
		now := clock()
		changed := s.due(b.boot, now)
		s.advance(b.boot, now)
		for _, j := range jobs {
			// The caller may have given up while another process had the lock.
			if j.ctx.Err() != nil {
				j.done <- notSent(context.Cause(j.ctx))
				continue
			}
			changed = j.run(s, now) || changed
		}
		if !changed {
			return nil
		}
		return b.save(s)
	}()
	for _, j := range jobs {
		select {
		case j.done <- err:
		default: // it was not run
		}
	}
}

// notSent returns a definite error: nothing was written, and nothing will be.
func notSent(err error) error {
	if errors.Is(err, attempt.ErrNotSent) {
		return err
	}
	return fmt.Errorf("%w: %w", attempt.ErrNotSent, err)
}
