package conformance

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// nested is one way to write a key below or above another one.
type nested struct {
	what   string
	below  string // the prefix of both keys
	keys   [2]string
	leased [2]bool
}

func (n nested) key(i int) string { return n.below + "/" + n.keys[i] }

func nestings() []nested {
	return []nested{
		{what: "below a key", keys: [2]string{"a", "a/b"}},
		{what: "two levels below a key", keys: [2]string{"a", "a/b/c"}},
		{what: "leased, below a key", keys: [2]string{"a", "a/b"}, leased: [2]bool{false, true}},
		{what: "below a leased key", keys: [2]string{"a", "a/b"}, leased: [2]bool{true, false}},
		{what: "above a key", keys: [2]string{"a/b", "a"}},
		{what: "leased, above a key", keys: [2]string{"a/b", "a"}, leased: [2]bool{false, true}},
		{what: "above a leased key", keys: [2]string{"a/b", "a"}, leased: [2]bool{true, false}},
	}
}

func nestedKeys(e *env) {
	a, b := e.pair()
	for i, n := range nestings() {
		n.below = e.key(fmt.Sprint("absent-", i))
		e.nest(a, b, n, dcs.Absent(n.key(1)))
		n.below = e.key(fmt.Sprint("any-", i))
		e.nest(a, b, n)
	}
}

// nest writes n's second key through b, under conds, and requires one of the two allowed
// results.
func (e *env) nest(a, b *client, n nested, conds ...dcs.Cond) {
	first, second := n.key(0), n.key(1)
	a.commit(dcs.Txn{Then: []dcs.Write{n.write(a, 0)}})
	before := b.get(first)
	rev, err := b.Commit(e.ctx, dcs.Txn{If: conds, Then: []dcs.Write{n.write(b, 1)}})
	require.Equal(e, before, a.get(first), "a key %s changed the first one", n.what)
	if err != nil {
		e.kind(err, dcs.ErrInvalid, "a key "+n.what)
		require.Equal(e, map[string]string{first: "1"}, tree(a.snapshot(n.below)), "a key %s was refused", n.what)
		return
	}
	stored := a.get(second)
	require.Equal(e, rev, stored.Created)
	require.Equal(e, map[string]string{first: "1", second: "2"}, tree(a.snapshot(n.below)), "a key %s", n.what)
	a.del(first)
	require.Equal(e, stored, b.get(second), "deleting the first key changed one %s", n.what)
}

// write returns the put of the first key or of the second one.
func (n nested) write(c *client, i int) dcs.Write {
	value := []byte(fmt.Sprint(i + 1))
	if !n.leased[i] {
		return dcs.Put(n.key(i), value)
	}
	l, _ := c.grant()
	return dcs.PutLeased(n.key(i), value, l.ID())
}
