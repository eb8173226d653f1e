package dcs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// movePlan lists the remaining steps of a move.
type movePlan struct {
	parts    []Txn
	complete bool // afterwards every key is on the spare lease
}

// plan reads every key of the session and returns the Txns that move the keys which
// are not on spare yet. Their conditions are on Modified, so that a Txn applies
// only to the incarnation and the value that were read.
func (m *migration) plan(ctx context.Context, spare *leaseState) (movePlan, error) {
	m.s.mu.Lock()
	checked := m.s.keysToCheck()
	m.s.mu.Unlock()
	slices.SortFunc(checked, func(a, b checkedKey) int { return strings.Compare(a.key, b.key) })
	read, err := m.readKeys(ctx, checked)
	if err != nil {
		return movePlan{}, err
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.checkKeys(checked, read) // the reading began after the Holds did (P5)
	var b txnParts
	there := 0
	for _, a := range checked {
		own := a.pub != nil && !a.pub.displaced || a.hold != nil && m.s.holds[a.key] == a.hold
		e, _ := read.Entry(a.key)
		switch {
		case !own:
		case e.Lease == spare.ID():
			there++
		default:
			b.add(ModifiedAt(e.Key, e.Modified), PutLeased(e.Key, e.Value, spare.ID()), m.s.store.caps) // P18, P20
		}
	}
	m.split = m.split || there > 0
	return movePlan{b.txns, len(b.txns) == 0 || len(b.txns) == 1 && there == 0}, nil
}

// fewReads is the largest number of keys that are read one by one. If there are
// more, one request reads the tree below the longest path common to all.
const fewReads = 16

// readKeys reads the keys of checked, which are sorted, linearizably.
func (m *migration) readKeys(ctx context.Context, checked []checkedKey) (Renewal, error) {
	if len(checked) > fewReads {
		prefix := parent(checked[0].key)
		for last := checked[len(checked)-1].key; !Under(prefix, last); {
			prefix = parent(prefix)
		}
		snap, err := m.s.store.Snapshot(ctx, prefix)
		return Renewal{Entries: snap.Entries}, err
	}
	var r Renewal
	for _, a := range checked {
		e, err := m.s.store.Get(ctx, a.key)
		switch {
		case err == nil:
			r.Entries = append(r.Entries, e)
		case !errors.Is(err, ErrNotFound):
			return r, err
		}
	}
	return r, nil
}

// parent returns the path above key, empty at the top.
func parent(key string) string { return key[:max(strings.LastIndexByte(key, '/'), 0)] }

// partsAtOnce is the number of parts of a move that are under way at once. All parts
// must be committed before the deadline.
const partsAtOnce = 8

// commitParts commits the parts of a move and returns the number of applied ones. Each
// part is settled then, unless the error is errMoveUnsettled (P20).
func (m *migration) commitParts(ctx context.Context, parts []Txn, spare *leaseState) (landed int, failed error) {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards the results
	running := make(chan struct{}, partsAtOnce)
	for _, t := range parts {
		running <- struct{}{}
		mu.Lock()
		stop := failed != nil
		mu.Unlock()
		if stop {
			break
		}
		wg.Go(func() {
			err := m.commitPart(ctx, t, spare)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				landed++
			} else if failed == nil || errors.Is(err, errMoveUnsettled) {
				failed = err
			}
			<-running
		})
	}
	wg.Wait()
	if landed > 0 && len(parts) > 1 {
		m.s.mu.Lock()
		m.split = true
		m.s.mu.Unlock()
	}
	return landed, failed
}

// commitPart commits one part of a move, and settles it if the outcome is ambiguous.
func (m *migration) commitPart(ctx context.Context, t Txn, spare *leaseState) error {
	_, err := m.s.store.Commit(ctx, t)
	if !errors.Is(err, ErrAmbiguous) {
		return err
	}
	switch m.settlePart(t, spare, err) {
	case unsupported, interrupted:
		return errMoveUnsettled
	case landed:
		return nil
	default:
		return fmt.Errorf("the migration was ambiguous and has been undone: %w", opaque(err))
	}
}

// settlePart settles an ambiguous move. No other write of the session begins before
// (P20).
func (m *migration) settlePart(t Txn, spare *leaseState, err error) settleResult {
	_, how := m.s.settle(err)
	for n := 0; how == fenced; n++ {
		how = m.readBack(t, spare)
		if how == fenced && pause(m.s.life, n) != nil {
			return interrupted
		}
	}
	if how == unsupported {
		m.s.mu.Lock()
		m.unsettleable = true
		m.s.mu.Unlock()
	}
	return how
}

// readBack determines the outcome of a move that cannot be applied any more. Any of
// its keys that still exists shows it.
func (m *migration) readBack(t Txn, spare *leaseState) settleResult {
	ctx, cancel := m.s.call(m.s.life)
	defer cancel()
	for _, w := range t.Then {
		e, err := m.s.store.Get(ctx, w.Key)
		switch {
		case err == nil && e.Lease == spare.ID():
			return landed
		case err == nil && m.s.owns(e.Lease):
			return refused
		case err != nil && !errors.Is(err, ErrNotFound):
			return fenced
		}
	}
	return refused
}
