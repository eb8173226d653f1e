//go:build linux

package filestore

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Step 7: Wait. The kernel reports every rename in the directory (inotify), so that a Wait
// does not poll. One feed serves all the Waits of a client. While nothing changes it reads
// the state from time to time, because silence has two meanings: no change, or a store that
// hangs.

var errSilent = errors.New("the files were not readable for RetryTimeout")

// Wait implements [dcs.Backend].
func (b *Store) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	b.feed.join()
	defer b.feed.leave()
	// The feed may be behind the last answer of this client.
	atLeast := max(since, b.newest())
	var first *dcs.Snapshot
	for {
		s, silent, news := b.feed.latest()
		switch {
		case silent:
			return dcs.Snapshot{}, errSilent // without a kind: dcs reports ErrUnavailable
		case s == nil || s.Revision < atLeast:
		case first == nil:
			snap := s.snapshot(prefix)
			if movedSince(s, snap, since) {
				return snap, nil
			}
			first = &snap
		case s.Revision > first.Revision:
			if snap := s.snapshot(prefix); !sameEntries(snap, *first) {
				return snap, nil
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			return dcs.Snapshot{}, ctx.Err() // the bare error of the context
		case <-b.life.Done():
			return dcs.Snapshot{}, dcs.ErrClosed
		}
	}
}

// movedSince reports whether the tree snap of s may have changed since a revision. A key
// that was deleted cannot be attributed to a tree, so that a deletion anywhere counts. A
// Wait may return a tree that is newer and equal.
func movedSince(s *state, snap dcs.Snapshot, since dcs.Revision) bool {
	return since == 0 || s.Deleted > since ||
		slices.ContainsFunc(snap.Entries, func(e dcs.Entry) bool { return e.Modified > since })
}

func sameEntries(a, b dcs.Snapshot) bool {
	return slices.EqualFunc(a.Entries, b.Entries, func(x, y dcs.Entry) bool { return x.Key == y.Key && x.Modified == y.Modified })
}

// feed follows the directory of a client.
type feed struct {
	b       *Store
	every   time.Duration // the longest time between two reads
	inotify *os.File
	events  chan struct{} // has an element after an event
	ended   sync.WaitGroup

	mu      sync.Mutex
	waiters int
	state   *state      // the newest that was read
	heard   dcs.Instant // when the files were last readable
	silent  bool
	news    chan struct{} // closed when state or silent changes
}

func newFeed(b *Store) (*feed, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := &feed{
		b: b, inotify: os.NewFile(uintptr(fd), "inotify"),
		every:  min(2500*time.Millisecond, b.timing.RetryTimeout/4),
		events: make(chan struct{}, 1), news: make(chan struct{}),
	}
	if _, err := unix.InotifyAddWatch(fd, b.dir, unix.IN_MOVED_TO); err != nil {
		_ = f.inotify.Close() // it was never used
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	f.ended.Go(f.listen) // ends when close closes the inotify descriptor
	f.ended.Go(f.run)    // ends with the client's life
	return f, nil
}

func (f *feed) close() {
	_ = f.inotify.Close() // ends listen
	f.ended.Wait()
}

// listen passes the kernel's events on. It does not matter which they are.
func (f *feed) listen() {
	buffer := make([]byte, 4096)
	for {
		if _, err := f.inotify.Read(buffer); err != nil {
			return
		}
		f.kick()
	}
}

// run reads the state after each event, when a lease expires, and from time to time.
func (f *feed) run() {
	for {
		op := "Wait" // an event is an answer to the Waits
		timer := time.NewTimer(f.pause())
		select {
		case <-f.events:
		case <-timer.C:
			op = "Probe"
		case <-f.b.life.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		if !f.wanted() {
			continue // a client without a Wait reads nothing
		}
		f.note(f.read(op, f.limit()))
	}
}

// read reads the state within limit. If there is no answer after a quarter of RetryTimeout,
// the request may be lost, and is sent once more. The first answer counts, so that the read
// of a large tree on a busy machine may take longer than that.
func (f *feed) read(op string, limit time.Duration) (*state, error) {
	ctx, cancel := context.WithTimeout(f.b.life, limit)
	defer cancel()
	type result struct {
		s   *state
		err error
	}
	results, open := make(chan result, 2), 0
	send := func() {
		open++
		f.ended.Go(func() { // ends with ctx
			s, err := read(ctx, f.b, request{op: op})
			results <- result{s, err}
		})
	}
	send()
	again := time.NewTimer(f.every)
	defer again.Stop()
	for {
		select {
		case r := <-results:
			if open--; r.err == nil || open == 0 {
				return r.s, r.err
			}
		case <-again.C:
			send()
		}
	}
}

// pause returns the time until the next read without an event. After a read that failed,
// the next one follows at once.
func (f *feed) pause() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	pause := f.every
	if f.waiters > 0 && !f.silent {
		if f.heard.Elapsed() > f.every {
			pause = 0
		}
		if f.state != nil {
			pause = min(pause, f.state.nextDeadline()-clock())
		}
	}
	return max(pause, time.Millisecond)
}

// limit returns the limit of a read that begins now. No read of a Wait lasts until after
// the silence that the Wait must report.
func (f *feed) limit() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	limit := f.b.timing.RetryTimeout
	if f.waiters > 0 && !f.silent {
		limit -= f.heard.Elapsed()
	}
	return max(limit, time.Millisecond)
}

// note takes the result of a read.
func (f *feed) note(s *state, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil && (f.silent || f.state == nil || s.Revision > f.state.Revision):
		f.state, f.silent = s, false
		f.wake()
	case err != nil && !f.silent && f.heard.Elapsed() >= f.b.timing.RetryTimeout:
		f.silent = true
		f.wake()
	}
	if err == nil {
		f.state = s // renewals move deadlines without a new revision
		f.heard = dcs.Now()
	}
}

func (f *feed) wake() {
	close(f.news)
	f.news = make(chan struct{})
}

func (f *feed) wanted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiters > 0
}

// join makes the feed work for one more Wait. The first one makes it read the state,
// because it has followed no change before.
func (f *feed) join() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiters++; f.waiters > 1 && !f.silent {
		return
	}
	f.state, f.heard, f.silent = nil, dcs.Now(), false
	f.kick()
}

// kick makes run read the state.
func (f *feed) kick() {
	select {
	case f.events <- struct{}{}:
	default: // a read that has not begun yet will find the change too
	}
}

func (f *feed) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters--
}

// latest returns the newest state, whether the store is silent, and a channel that is
// closed when one of them changes.
func (f *feed) latest() (s *state, silent bool, news <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.silent, f.news
}
