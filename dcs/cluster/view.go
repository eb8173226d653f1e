package cluster

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// View is a cluster as it was at one moment. Views that [Watch] yields share the records
// of members and must not be changed.
type View struct {
	Scope string
	// Revision is the store's position.
	Revision dcs.Revision
	// Leader is nil if nobody holds the lock.
	Leader *Leader
	// Members are sorted by name.
	Members    []Member
	Config     Config
	Initialize Initialize
	// Failover is nil if no other leader is asked for.
	Failover *Failover
	Sync     Sync
	History  History
	Status   Status
	Failsafe Failsafe
	// Keeper is nil if no member leads without a lock.
	Keeper *Keeper
	// Problems are the values, or parts of them, that are not readable.
	Problems []Problem

	snap dcs.Snapshot
}

// Problem is a value that is not readable.
type Problem struct {
	Key string
	Err error
}

// String returns the key and the fault of its value.
func (p Problem) String() string { return fmt.Sprintf("%s: %v", p.Key, p.Err) }

// Read reads the cluster scope at one moment.
func Read(ctx context.Context, store *dcs.Store, scope string) (*View, error) {
	if err := CheckScope(scope); err != nil {
		return nil, err
	}
	snap, err := store.Snapshot(ctx, scope)
	if err != nil {
		return nil, err
	}
	return Decode(scope, snap, nil), nil
}

// Watch yields the cluster scope and then a newer View after each change, until
// the loop over it or ctx ends it. Errors of the store are yielded as
// [dcs.Store.Watch] yields them, with a nil View.
func Watch(ctx context.Context, store *dcs.Store, scope string) iter.Seq2[*View, error] {
	return func(yield func(*View, error) bool) {
		if err := CheckScope(scope); err != nil {
			yield(nil, err)
			return
		}
		var last *View
		for snap, err := range store.Watch(ctx, scope) {
			if err == nil {
				last = Decode(scope, snap, last)
				if !yield(last, nil) {
					return
				}
			} else if !yield(nil, err) {
				return
			}
		}
	}
}

// Decode decodes the tree of the cluster scope. It never fails: a value that is
// not readable is one of the View's Problems, and hides no other.
//
// last is an earlier View of the cluster, or nil. Its configuration stays in force while
// the stored one is not readable. The Views share the members whose records are the
// same, so that neither must be changed.
func Decode(scope string, snap dcs.Snapshot, last *View) *View {
	v := &View{Scope: scope, Revision: snap.Revision, snap: snap}
	for _, e := range snap.Entries {
		key, ok := strings.CutPrefix(e.Key, scope+"/")
		if !ok {
			continue
		}
		var faults []error
		if name, ok := strings.CutPrefix(key, membersDir+"/"); ok {
			faults = v.addMember(name, e, last)
		} else {
			faults = v.decode(key, e, last)
		}
		for _, err := range faults {
			v.Problems = append(v.Problems, Problem{e.Key, err})
		}
	}
	return v
}

func (v *View) addMember(name string, e dcs.Entry, last *View) []error {
	if err := checkName(name); err != nil {
		return []error{err}
	}
	if m, ok := last.unchanged(name, e); ok {
		v.Members = append(v.Members, m)
		return nil
	}
	m, faults := decodeMember(name, e)
	v.Members = append(v.Members, m)
	return faults
}

// unchanged returns the member called name if its record in v, which may be nil, is e and
// has no problem. A change of one member thus costs no decoding of all others.
func (v *View) unchanged(name string, e dcs.Entry) (Member, bool) {
	if v == nil {
		return Member{}, false
	}
	before, found := v.snap.Get(e.Key)
	if !found || before.Modified != e.Modified || before.Lease != e.Lease || !bytes.Equal(before.Value, e.Value) ||
		slices.ContainsFunc(v.Problems, func(p Problem) bool { return p.Key == e.Key }) {
		return Member{}, false
	}
	i, found := slices.BinarySearchFunc(v.Members, name, func(m Member, name string) int { return strings.Compare(m.Name, name) })
	if !found {
		return Member{}, false
	}
	return v.Members[i], true
}

func (v *View) decode(key string, e dcs.Entry, last *View) (faults []error) {
	var err error
	switch key {
	case LeaderKey:
		v.Leader = &Leader{Token: e.Created, Lease: e.Lease}
		if err = checkName(string(e.Value)); err == nil {
			v.Leader.Name = string(e.Value)
		}
	case ConfigKey:
		v.Config.Extra, faults, err = decodeObject(e.Value, &v.Config)
		if (err != nil || len(faults) > 0) && last != nil {
			v.Config = last.Config
		}
	case InitializeKey:
		v.Initialize = Initialize(e.Value)
	case FailoverKey:
		v.Failover, err = decodeFailover(e.Value)
	case SyncKey:
		v.Sync.Extra, faults, err = decodeObject(e.Value, &v.Sync)
	case HistoryKey:
		v.History, faults = decodeHistory(e.Value)
	case StatusKey:
		v.Status, faults = decodeStatus(e.Value)
	case optimeKey:
		if !v.Stored(StatusKey) {
			v.Status, faults = decodeStatus(e.Value)
		}
	case FailsafeKey:
		v.Failsafe, err = decodeFailsafe(e.Value)
	case KeeperKey:
		v.Keeper, err = decodeKeeper(e.Value)
	}
	if err != nil {
		faults = append(faults, err)
	}
	return faults
}

// Member returns the record of the member called name, or false if there is none.
func (v *View) Member(name string) (Member, bool) {
	for _, m := range v.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// Stored reports whether the key with this name, as in ConfigKey, exists.
func (v *View) Stored(name string) bool {
	_, found := v.snap.Get(Key(v.Scope, name))
	return found
}

// Problem returns the error of the value of the key with this name, as in SyncKey,
// or nil if it is readable.
func (v *View) Problem(name string) error {
	for _, p := range v.Problems {
		if p.Key == Key(v.Scope, name) {
			return p.Err
		}
	}
	return nil
}

// Unchanged returns the conditions that hold while the keys with these names, as
// in ConfigKey, are as they are in v. Use them for an acquisition that was decided
// by v.
func (v *View) Unchanged(keys ...string) []dcs.Cond {
	out := make([]dcs.Cond, len(keys))
	for i, name := range keys {
		key := Key(v.Scope, name)
		e, _ := v.snap.Get(key)
		out[i] = dcs.ModifiedAt(key, e.Modified)
	}
	return out
}
