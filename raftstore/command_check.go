package raftstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const (
	// maxLeaseID is the longest name of a lease in bytes.
	maxLeaseID = 128
	// commandOverhead is what an encoded command may have on top of its
	// Caps.MaxTxnBytes: numbers, lengths and the names of leases.
	commandOverhead = 64 << 10
	// maxCommand is the largest log entry that a leader proposes.
	maxCommand = maxTxnBytes + commandOverhead
)

// checkProposal returns an error unless every node can apply the command in
// data and key is what finds its waiting caller. A leader must call it before
// it proposes what a caller sent: an entry that nodes cannot read stops them
// for good.
func checkProposal(key waitKey, data []byte) error {
	if len(data) > maxCommand {
		return fmt.Errorf("a command of %d bytes: a leader takes at most %d", len(data), maxCommand)
	}
	c, err := readCommand(&decoder{b: data, most: maxTxnOps})
	if err != nil {
		return err
	}
	if key != keyOf(&c) {
		return errors.New("the command does not match the request's client and number")
	}
	switch c.kind {
	case cmdTxn:
		return checkTxn(c.txn)
	case cmdGrant:
		if c.ttl <= 0 || c.ttl > maxTTL {
			return fmt.Errorf("a TTL of %v: more than 0 and at most %v", c.ttl, time.Duration(maxTTL))
		}
		return checkLease(c.lease)
	case cmdRevoke:
		return checkLease(c.lease)
	case cmdTerm, cmdExpire:
		return fmt.Errorf("a command of kind %d: only a leader makes one, for itself", c.kind)
	case cmdOpen, cmdCancel:
	}
	return nil
}

func checkLease(id dcs.LeaseID) error {
	if id == "" || len(id) > maxLeaseID {
		return fmt.Errorf("a lease ID of %d bytes: it has 1 to %d", len(id), maxLeaseID)
	}
	return nil
}

// checkTxn checks t's shape and what Caps promises.
func checkTxn(t dcs.Txn) error {
	if err := t.Check(); err != nil {
		return err
	}
	if ops := len(t.If) + len(t.Then); ops > maxTxnOps {
		return fmt.Errorf("a Txn of %d conditions and writes: at most %d", ops, maxTxnOps)
	}
	size := 0
	for i := range t.If {
		size += len(t.If[i].Key)
	}
	for i := range t.Then {
		w := &t.Then[i]
		size += len(w.Key) + len(w.Value)
		if len(w.Value) > maxValue {
			return fmt.Errorf("a value of %d bytes: at most %d", len(w.Value), maxValue)
		}
	}
	if size > maxTxnBytes {
		return fmt.Errorf("a Txn of %d bytes of keys and values: at most %d", size, maxTxnBytes)
	}
	return nil
}
