package backend

import (
	"slices"
	"sync"
)

// Cache holds the last observed state of keys. Entries are hints: the store rejects a write
// that is built on a stale one. The zero value is ready to use.
type Cache[T any] struct {
	mu  sync.Mutex
	all map[string]T
}

// maxCached bounds the number of entries. The whole cache is dropped when it is reached.
const maxCached = 1024

// Of returns the last observed state of key, and whether there is one.
func (m *Cache[T]) Of(key string) (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.all[key]
	return v, ok
}

// Note stores v for key.
func (m *Cache[T]) Note(key string, v T) { m.Learn(nil, map[string]T{key: v}) }

// Learn changes the value of every key, unless change is nil, and then stores notes. No other
// call sees one without the other.
func (m *Cache[T]) Learn(change func(key string, v T) T, notes map[string]T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if change != nil {
		for key, v := range m.all {
			m.all[key] = change(key, v)
		}
	}
	for key, v := range notes {
		if m.all == nil || len(m.all) >= maxCached {
			m.all = map[string]T{}
		}
		m.all[key] = v
	}
}

// Forget drops the entries of keys.
func (m *Cache[T]) Forget(keys ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.all, key)
	}
}

// Clear drops all entries.
func (m *Cache[T]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = nil
}

// Unique returns the keys sorted, each once.
func Unique(keys []string) []string {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	return slices.Compact(keys)
}
