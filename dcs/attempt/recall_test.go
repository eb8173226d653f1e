package attempt

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// cachingStore is a store whose transport caches entries.
type cachingStore struct {
	*store
	seen map[string]dcs.Entry
}

func (m *cachingStore) Recall(key string) (dcs.Entry, bool) {
	e, ok := m.seen[key]
	return e, ok
}

// A cached entry saves the read that resolves a condition on Created. If it is out of date
// or of another incarnation, nothing wrong is applied.
func TestRecalledEntries(t *testing.T) {
	for name, test := range map[string]struct {
		remember func(m *cachingStore)
		taken    bool // by another client, before the Commit
		reads    int  // in addition to that of the marker
		copies   int
		want     error
	}{
		"as it is":            {func(m *cachingStore) { m.see("lock") }, false, 0, 1, nil},
		"rewritten since":     {func(m *cachingStore) { m.see("lock"); m.write(dcs.Put("lock", []byte("2"))) }, false, 1, 2, nil},
		"nothing":             {func(*cachingStore) {}, false, 1, 1, nil},
		"another incarnation": {func(m *cachingStore) { m.see("lock") }, true, 0, 1, dcs.ErrConflict},
		"the other's entry":   {func(m *cachingStore) { m.retake(); m.see("lock") }, false, 1, 0, dcs.ErrConflict},
		"no revision":         {func(m *cachingStore) { m.see("lock"); m.forgetModified("lock"); m.write(dcs.Delete("lock")) }, false, 1, 0, dcs.ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				m := &cachingStore{newStore(), map[string]dcs.Entry{}}
				token := m.write(dcs.Put("lock", []byte("1")))
				test.remember(m)
				if test.taken {
					m.retake()
				}
				c := New(m, Options{ModifiedOnly: true})
				defer c.Close()
				_, err := c.Commit(within(t, budget), dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("lock", token)}, Then: []dcs.Write{dcs.Put("x", nil)}})
				if test.want == nil && err != nil {
					t.Fatal(err)
				}
				if test.want != nil {
					if err := kindIs(err, test.want); err != nil {
						t.Fatal(err)
					}
				}
				if m.reads != 1+test.reads || m.sent[commit] != test.copies {
					t.Errorf("%d reads and %d copies, want %d and %d", m.reads, m.sent[commit], 1+test.reads, test.copies)
				}
			})
		})
	}
}

// retake makes the lock a new incarnation, held by another client.
func (m *cachingStore) retake() {
	m.write(dcs.Delete("lock"))
	m.write(dcs.Put("lock", []byte("theirs")))
}

// forgetModified removes the Modified of a cached entry.
func (m *cachingStore) forgetModified(key string) {
	m.seen[key] = dcs.Entry{Key: key, Created: m.seen[key].Created}
}

func (m *cachingStore) see(key string) {
	e, _ := m.tree.Get(key)
	m.seen[key] = e
}
