package remote

import (
	"slices"
	"sync"
)

// Memory remembers what was last seen of keys, for what is built on it and
// refused by the store where it is not true any more. The zero value is ready.
type Memory[T any] struct {
	mu  sync.Mutex
	all map[string]T
}

// mostRemembered bounds the memory; all of it is dropped then.
const mostRemembered = 1024

// Of returns what was last seen of key, and whether anything was.
func (m *Memory[T]) Of(key string) (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.all[key]
	return v, ok
}

// Note remembers v of key.
func (m *Memory[T]) Note(key string, v T) { m.Learn(nil, map[string]T{key: v}) }

// Learn changes the value of every key, unless change is nil, and then remembers
// notes. No other call sees the one without the other.
func (m *Memory[T]) Learn(change func(key string, v T) T, notes map[string]T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if change != nil {
		for key, v := range m.all {
			m.all[key] = change(key, v)
		}
	}
	for key, v := range notes {
		if m.all == nil || len(m.all) >= mostRemembered {
			m.all = map[string]T{}
		}
		m.all[key] = v
	}
}

// Forget drops what is known of keys.
func (m *Memory[T]) Forget(keys ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.all, key)
	}
}

// Clear drops everything.
func (m *Memory[T]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = nil
}

// Unique are the keys in order, each once.
func Unique(keys []string) []string {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	return slices.Compact(keys)
}
