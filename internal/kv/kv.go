// Package kv is the ordered tree of keys, leases and revisions that memstore
// and raftstore keep. It is deterministic: it reads no clock, and the caller
// gives every change its revision.
package kv

import (
	"errors"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// ErrLease: a put is bound to a lease that is not live. Nothing was written.
var ErrLease = errors.New("kv: the lease is not live")

// ErrNested: a key would lie below another one. Nothing was written.
var ErrNested = errors.New("kv: a key would lie below another key")

// Conflict is the first condition that failed, and the entry that was found.
type Conflict struct {
	Cond    dcs.Cond
	Current *dcs.Entry // nil when the key is absent
}

// Error says which condition failed.
func (c *Conflict) Error() string { return "kv: condition on " + c.Cond.Key + " failed" }
