package zookeeper

import "sync"

// errands are what goes on in the background, which Close waits for.
type errands struct {
	mu   sync.Mutex
	over bool
	all  sync.WaitGroup
}

// run runs f in the background. It reports whether f is waited for: not when
// that is over.
func (e *errands) run(f func()) bool {
	e.mu.Lock()
	waited := !e.over
	if waited {
		e.all.Add(1)
	}
	e.mu.Unlock()
	go func() {
		if waited {
			defer e.all.Done()
		}
		f()
	}()
	return waited
}

// wait returns when all that was run has ended.
func (e *errands) wait() {
	e.mu.Lock()
	e.over = true
	e.mu.Unlock()
	e.all.Wait()
}
