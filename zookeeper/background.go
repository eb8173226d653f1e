package zookeeper

import "sync"

// background tracks goroutines that Close must wait for.
type background struct {
	mu   sync.Mutex
	over bool
	all  sync.WaitGroup
}

// run runs f in a goroutine. It reports whether wait waits for f, which it does
// not if wait was called before.
func (b *background) run(f func()) bool {
	b.mu.Lock()
	waited := !b.over
	if waited {
		b.all.Add(1)
	}
	b.mu.Unlock()
	go func() {
		if waited {
			defer b.all.Done()
		}
		f()
	}()
	return waited
}

// wait waits until all functions passed to run have returned.
func (b *background) wait() {
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
	b.all.Wait()
}
