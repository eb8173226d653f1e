package conformance

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// errorTexts are keys that are named like errors of stores. A store may quote a key in the
// text of a conflict.
func errorTexts() []string {
	return []string{
		`invalid session "x"`, "No cluster leader", "Permission denied", "x due to lock delay", "ACL not found",
		"etcdserver: requested lease not found", "etcdserver: mvcc: database space exceeded",
		"zk: session has been expired by the server",
	}
}

// errorTextKeys requires that conflicts on such keys are conflicts, and end neither a lease
// nor a Session.
func errorTextKeys(e *env) {
	c := e.open()
	session := c.session()
	lease, _ := c.grant()
	for _, text := range errorTexts() {
		taken, free, held := e.key("taken", text), e.key("free", text), e.key("held", text)
		hold := e.acquire(session, held, "v")
		created := c.put(taken, "v")
		for what, txn := range map[string]dcs.Txn{
			"a put of the key":                {If: []dcs.Cond{dcs.Absent(taken)}, Then: []dcs.Write{dcs.PutLeased(taken, nil, lease.ID())}},
			"a put of another key":            {If: []dcs.Cond{dcs.Absent(taken)}, Then: []dcs.Write{dcs.PutLeased(free, nil, lease.ID())}},
			"a condition on a wrong revision": {If: []dcs.Cond{dcs.ModifiedAt(taken, created+1)}, Then: []dcs.Write{dcs.PutLeased(taken, nil, lease.ID())}},
			"a condition on an absent key":    {If: []dcs.Cond{dcs.ModifiedAt(free, created)}, Then: []dcs.Write{dcs.PutLeased(free, nil, lease.ID())}},
			"the lock of the Session":         {If: []dcs.Cond{dcs.Absent(held)}, Then: []dcs.Write{dcs.PutLeased(held, nil, lease.ID())}},
		} {
			_, err := c.Commit(e.ctx, txn)
			e.kind(err, dcs.ErrConflict, fmt.Sprintf("key %q: %s", text, what))
		}
		_, err := session.TryAcquire(e.ctx, taken, nil)
		e.kind(err, dcs.ErrConflict, fmt.Sprintf("key %q: TryAcquire", text))
		_, err = lease.Renew(e.ctx, held)
		require.NoError(e, err, "key %q: the lease", text)
		require.NoError(e, hold.Confirm(e.ctx), "key %q: the Hold", text)
		require.True(e, hold.Valid(), "key %q: the Hold", text)
	}
}
