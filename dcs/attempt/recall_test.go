package attempt

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// mindful is a store whose transport remembers entries.
type mindful struct {
	*store
	seen map[string]dcs.Entry
}

func (m *mindful) Recall(key string) (dcs.Entry, bool) {
	e, ok := m.seen[key]
	return e, ok
}

// What is remembered saves the read that resolves a condition on Created, and
// nothing wrong is applied where it is out of date, or of another incarnation.
func TestRecalledEntries(t *testing.T) {
	for name, test := range map[string]struct {
		remember func(m *mindful)
		taken    bool // by another, before the Commit
		reads    int  // beside the marker's one
		copies   int
		want     error
	}{
		"as it is":            {func(m *mindful) { m.see("lock") }, false, 0, 1, nil},
		"rewritten since":     {func(m *mindful) { m.see("lock"); m.write(dcs.Put("lock", []byte("2"))) }, false, 1, 2, nil},
		"nothing":             {func(*mindful) {}, false, 1, 1, nil},
		"another incarnation": {func(m *mindful) { m.see("lock") }, true, 0, 1, dcs.ErrConflict},
		"the other's entry":   {func(m *mindful) { m.retake(); m.see("lock") }, false, 1, 0, dcs.ErrConflict},
		"no revision":         {func(m *mindful) { m.see("lock"); m.forgetModified("lock"); m.write(dcs.Delete("lock")) }, false, 1, 0, dcs.ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				m := &mindful{newStore(), map[string]dcs.Entry{}}
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

// retake makes the lock another client's: a new incarnation.
func (m *mindful) retake() {
	m.write(dcs.Delete("lock"))
	m.write(dcs.Put("lock", []byte("theirs")))
}

// forgetModified leaves of an entry only the incarnation.
func (m *mindful) forgetModified(key string) {
	m.seen[key] = dcs.Entry{Key: key, Created: m.seen[key].Created}
}

func (m *mindful) see(key string) {
	e, _ := m.tree.Get(key)
	m.seen[key] = e
}
