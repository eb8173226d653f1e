package kvtree

// Watch notifies one caller of changes at or below a prefix, until Stop. Its
// methods are safe for concurrent use.
type Watch struct {
	t      *Tree
	prefix string

	// Guarded by t.mu.
	on      *waiter // the waiter that counts this Watch, even if it is closed
	stopped bool
}

// waiter is shared by the Watches of one prefix that wait for its next change.
type waiter struct {
	moved   chan struct{} // closed at the next change
	watches int           // without the stopped ones
}

// Watch returns a Watch of prefix. The caller must stop it.
func (t *Tree) Watch(prefix string) *Watch { return &Watch{t: t, prefix: prefix} }

// Moved returns a channel that is closed at the next change at or below the prefix. A caller
// must get the channel before it calls MovedSince, so that no change goes unnoticed. After
// Stop it is nil.
func (w *Watch) Moved() <-chan struct{} {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.stopped {
		return nil
	}
	on, ok := t.waiters[w.prefix]
	if !ok {
		on = &waiter{moved: make(chan struct{})}
		t.waiters[w.prefix] = on
	}
	if w.on != on {
		w.on = on
		on.watches++
	}
	return on.moved
}

// Stop ends the Watch and removes it from the tree. A channel that Moved has returned may
// never be closed then.
func (w *Watch) Stop() {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.stopped {
		return
	}
	w.stopped = true
	if w.on == nil || t.waiters[w.prefix] != w.on {
		return // a change has removed the waiter
	}
	if w.on.watches--; w.on.watches == 0 {
		delete(t.waiters, w.prefix)
	}
}

// wake notifies the Watches of prefix. Called under mu.
func (t *Tree) wake(prefix string) {
	if w, ok := t.waiters[prefix]; ok {
		close(w.moved)
		delete(t.waiters, prefix)
	}
}
