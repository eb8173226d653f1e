package cluster

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Record is a value of the tree that [View.Txn] writes: a [Config], [Initialize],
// [Failover], [Sync], [Status], [History], [Failsafe] or [Keeper], or one of
// [Remove] and [ClearFailover].
type Record interface {
	key() string
	leaderOnly() bool
	encode() ([]byte, error)
}

// Remove deletes the key of a record, as in Remove(KeeperKey).
type Remove string

func (r Remove) key() string { return string(r) }

func (r Remove) leaderOnly() bool {
	switch string(r) {
	case SyncKey, HistoryKey, StatusKey, FailsafeKey, KeeperKey:
		return true
	}
	return false
}

func (r Remove) encode() ([]byte, error) {
	switch string(r) {
	case ConfigKey, InitializeKey, FailoverKey, SyncKey, HistoryKey, StatusKey, FailsafeKey, KeeperKey:
		return nil, nil
	}
	return nil, fmt.Errorf("key %q is not that of a record", string(r))
}

// ClearFailover ends a [Failover] as Patroni does, by writing an empty record.
type ClearFailover struct{}

func (ClearFailover) key() string             { return FailoverKey }
func (ClearFailover) leaderOnly() bool        { return false }
func (ClearFailover) encode() ([]byte, error) { return []byte("{}"), nil }

// Txn returns the transaction that writes records, on the condition that their
// keys are as they are in v. Records that are stored already are left out, a
// [Failsafe] excepted, so that Then may be empty; [dcs.Store.Commit] refuses such
// a transaction. Fields that this package does not know are those of Extra. The
// caller may add further conditions and writes.
//
// It returns an ErrInvalid that lists every fault of the records. Sync, Status,
// History, Failsafe and Keeper are faults: only the leader may write them, see
// [View.LeaderTxn].
func (v *View) Txn(records ...Record) (dcs.Txn, error) {
	return v.txn(records, func(r Record) error {
		if r.leaderOnly() {
			return fmt.Errorf("%s: only the leader may write this key: use LeaderTxn", r.key())
		}
		return nil
	})
}

// LeaderTxn is [View.Txn] for the member that leads. guard is its Hold's Guard: the
// store refuses the transaction once another member leads.
func (v *View) LeaderTxn(guard dcs.Cond, records ...Record) (dcs.Txn, error) {
	if lock := Key(v.Scope, LeaderKey); guard.Key != lock || guard.On != dcs.Created || guard.Is == 0 {
		return dcs.Txn{}, invalid("LeaderTxn", fmt.Errorf("the condition on %q is no guard of %q: pass the Guard of the leader's Hold", guard.Key, lock))
	}
	t, err := v.txn(records, func(Record) error { return nil })
	if err == nil {
		t.If = append(t.If, guard)
	}
	return t, err
}

// ForcedTxn is [View.Txn] without the rule that some keys are the leader's. It is
// for a command of an operator, for example when no member leads.
func (v *View) ForcedTxn(records ...Record) (dcs.Txn, error) {
	return v.txn(records, func(Record) error { return nil })
}

func (v *View) txn(records []Record, allowed func(Record) error) (dcs.Txn, error) {
	var t dcs.Txn
	var faults []error
	for _, r := range records {
		value, err := r.encode()
		if err != nil {
			err = fmt.Errorf("%s: %w", r.key(), err)
		}
		if err = errors.Join(err, allowed(r)); err != nil {
			faults = append(faults, err)
			continue
		}
		key := Key(v.Scope, r.key())
		e, found := v.snap.Get(key)
		write := dcs.Put(key, value)
		if _, remove := r.(Remove); remove {
			write = dcs.Delete(key)
		}
		if isStored(r, e, found, value) {
			continue
		}
		t.If = append(t.If, dcs.ModifiedAt(key, e.Modified))
		t.Then = append(t.Then, write)
	}
	if err := errors.Join(faults...); err != nil {
		return dcs.Txn{}, invalid("Txn", err)
	}
	return t, nil
}

// isStored reports whether r need not be written. A leader confirms its Failsafe by
// writing it, also where it is unchanged.
func isStored(r Record, e dcs.Entry, found bool, value []byte) bool {
	switch r.(type) {
	case Remove:
		return !found
	case Failsafe:
		return false
	default:
		return found && bytes.Equal(e.Value, value) && e.Lease == ""
	}
}
