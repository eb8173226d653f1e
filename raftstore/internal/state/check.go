package state

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// The limits of a command.
const (
	// MaxTTL is the longest time to live of a lease.
	MaxTTL = 24 * time.Hour
	// MaxValue is the largest value in bytes.
	MaxValue = 1 << 20
	// MaxTxnOps is the largest number of conditions and writes of a Txn.
	MaxTxnOps = 128
	// MaxTxnBytes is the most that keys and values of a Txn have in all.
	MaxTxnBytes = MaxValue + 64<<10
	// maxLeaseID is the longest name of a lease in bytes.
	maxLeaseID = 128
	// commandOverhead is the bytes that an encoded command may have on top of its
	// MaxTxnBytes: numbers, lengths and the names of leases.
	commandOverhead = 64 << 10
	// MaxCommand is the largest log entry that a leader proposes.
	MaxCommand = MaxTxnBytes + commandOverhead
)

// CheckProposal returns an error unless every node can apply the command in
// data and key is its key. A leader must call it before
// it proposes the command of a caller: an entry that nodes cannot read stops them
// for good.
//
// Nodes of an older release may be among them: a command above the feature
// level of the state is refused, also if this release understands it.
func (f *FSM) CheckProposal(key Key, data []byte) error {
	if len(data) > MaxCommand {
		return fmt.Errorf("a command of %d bytes: a leader takes at most %d", len(data), MaxCommand)
	}
	c, err := readCommand(codec.NewDecoder(data, MaxTxnOps), f.understands)
	if err != nil {
		return err
	}
	if level := f.Level(); data[0] > level {
		return fmt.Errorf("a command of feature level %d: the cluster stays at level %d until every node runs a release that understands more", data[0], level)
	}
	if key != c.Key() {
		return errors.New("the command does not match the request's client and number")
	}
	switch c.Kind {
	case KindTxn:
		return checkTxn(c.Txn)
	case KindGrant:
		if c.TTL <= 0 || c.TTL > MaxTTL {
			return fmt.Errorf("a TTL of %v: more than 0 and at most %v", c.TTL, time.Duration(MaxTTL))
		}
		return checkLease(c.Lease)
	case KindRevoke:
		return checkLease(c.Lease)
	case KindTerm, KindExpire, KindLevel:
		return fmt.Errorf("a command of kind %d: only a leader makes one, for itself", c.Kind)
	case KindOpen, KindCancel:
	}
	return nil
}

func checkLease(id dcs.LeaseID) error {
	if id == "" || len(id) > maxLeaseID {
		return fmt.Errorf("a lease ID of %d bytes: it has 1 to %d", len(id), maxLeaseID)
	}
	return nil
}

// checkTxn checks t's shape and the limits of Caps.
func checkTxn(t dcs.Txn) error {
	if err := t.Check(); err != nil {
		return err
	}
	if ops := len(t.If) + len(t.Then); ops > MaxTxnOps {
		return fmt.Errorf("a Txn of %d conditions and writes: at most %d", ops, MaxTxnOps)
	}
	size := 0
	for i := range t.If {
		size += len(t.If[i].Key)
	}
	for i := range t.Then {
		w := &t.Then[i]
		size += len(w.Key) + len(w.Value)
		if len(w.Value) > MaxValue {
			return fmt.Errorf("a value of %d bytes: at most %d", len(w.Value), MaxValue)
		}
	}
	if size > MaxTxnBytes {
		return fmt.Errorf("a Txn of %d bytes of keys and values: at most %d", size, MaxTxnBytes)
	}
	return nil
}
