package dcs

import (
	"errors"
	"fmt"
)

// Check returns every fault in the shape of t, as one ErrInvalid. Faults are a key
// outside the grammar, an empty Then, more than one lease, a key that is named by two
// writes or by two conditions, a key below another one, a delete with a value or a
// lease, and a condition on an unknown field. Check does no I/O. [Store.Commit] also
// checks the limits of the store ([Caps]) before anything is sent.
func (t Txn) Check() error {
	if faults := t.faults(nil); len(faults) > 0 {
		return &Error{Op: "Check", Key: t.firstKey(), Kind: ErrInvalid, Err: join(faults)}
	}
	return nil
}

// firstKey returns the key that stands for the Txn in errors and events. It is the
// key of the first write, which for a lock is the lock.
func (t Txn) firstKey() string {
	switch {
	case len(t.Then) > 0:
		return t.Then[0].Key
	case len(t.If) > 0:
		return t.If[0].Key
	}
	return ""
}

// faults appends every fault in the shape of t to out. It allocates nothing for a
// valid Txn.
func (t Txn) faults(out []error) []error {
	if len(t.Then) == 0 {
		out = append(out, errors.New("Then is empty: a Txn needs at least one write (use Get or Snapshot to read)"))
	}
	for i, c := range t.If {
		if err := checkKey(c.Key); err != nil {
			out = append(out, fmt.Errorf("If[%d] %q: %w", i, clip(c.Key), err))
		}
		if c.On != Modified && c.On != Created {
			out = append(out, fmt.Errorf("If[%d] %q: field %d is unknown: use Modified or Created", i, clip(c.Key), c.On))
		}
	}
	lease := t.Lease()
	for i, w := range t.Then {
		if err := checkKey(w.Key); err != nil {
			out = append(out, fmt.Errorf("Then[%d] %q: %w", i, clip(w.Key), err))
		}
		if w.Delete && (len(w.Value) > 0 || w.Lease != "") {
			out = append(out, fmt.Errorf("Then[%d] %q: a delete carries a value or a lease: use Delete, Put or PutLeased", i, clip(w.Key)))
		}
		if w.Lease != "" && w.Lease != lease {
			out = append(out, fmt.Errorf("Then[%d] %q: a second lease %q in addition to %q: use one lease in a Txn", i, clip(w.Key), clip(string(w.Lease)), clip(string(lease))))
		}
	}
	return t.keyFaults(out)
}

// key returns the key of the i-th operation, conditions first.
func (t Txn) key(i int) (key string, write bool) {
	if i < len(t.If) {
		return t.If[i].Key, false
	}
	return t.Then[i-len(t.If)].Key, true
}

// keyFaults appends a fault for each key that is named twice or lies below another.
func (t Txn) keyFaults(out []error) []error {
	n := len(t.If) + len(t.Then)
	if n > 16 {
		return t.manyKeyFaults(out)
	}
	for i := range n {
		a, aw := t.key(i)
		for j := i + 1; j < n; j++ {
			b, bw := t.key(j)
			switch {
			case a == b && aw == bw:
				out = append(out, twice(a, aw))
			case below(a, b):
				out = append(out, nested(a, b))
			case below(b, a):
				out = append(out, nested(b, a))
			}
		}
	}
	return out
}

// manyKeyFaults is keyFaults for a Txn so large that comparing all pairs would be
// slow.
func (t Txn) manyKeyFaults(out []error) []error {
	n := len(t.If) + len(t.Then)
	type seen struct{ cond, write bool }
	keys := make(map[string]seen, n)
	for i := range n {
		k, w := t.key(i)
		s := keys[k]
		if (w && s.write) || (!w && s.cond) {
			out = append(out, twice(k, w))
		}
		if w {
			s.write = true
		} else {
			s.cond = true
		}
		keys[k] = s
	}
	for k := range keys {
		for i := range len(k) {
			if i > 0 && k[i] == '/' {
				if _, ok := keys[k[:i]]; ok {
					out = append(out, nested(k[:i], k))
				}
			}
		}
	}
	return out
}

func twice(key string, write bool) error {
	if write {
		return fmt.Errorf("key %q is written twice: state it once, with its final value", clip(key))
	}
	return fmt.Errorf("key %q has two conditions: state one", clip(key))
}

func nested(parent, key string) error {
	return fmt.Errorf("key %q lies below key %q: a key must not have keys below it, use a sibling", clip(key), clip(parent))
}

// limitFaults appends a fault for each limit of c that t exceeds.
func (t Txn) limitFaults(out []error, c Caps) []error {
	ops, bytes := len(t.If)+len(t.Then), 0
	for _, cond := range t.If {
		bytes += len(cond.Key)
	}
	for i, w := range t.Then {
		bytes += len(w.Key) + len(w.Value)
		if c.MaxValue > 0 && len(w.Value) > c.MaxValue {
			out = append(out, fmt.Errorf("Then[%d] %q: the value has %d bytes: this store takes at most %d (Caps.MaxValue)", i, clip(w.Key), len(w.Value), c.MaxValue))
		}
	}
	if c.MaxTxnOps > 0 && ops > c.MaxTxnOps {
		out = append(out, fmt.Errorf("the Txn has %d conditions and writes: this store takes at most %d (Caps.MaxTxnOps)", ops, c.MaxTxnOps))
	}
	if c.MaxTxnBytes > 0 && bytes > c.MaxTxnBytes {
		out = append(out, fmt.Errorf("the Txn has %d bytes of keys and values: this store takes at most %d (Caps.MaxTxnBytes)", bytes, c.MaxTxnBytes))
	}
	return out
}

// txnParts splits writes, each with its condition, into as few Txns as a store's
// limits allow.
type txnParts struct {
	txns  []Txn
	bytes int // of the last Txn
}

func (p *txnParts) add(cond Cond, w Write, c Caps) {
	bytes, last := len(cond.Key)+len(w.Key)+len(w.Value), len(p.txns)-1
	if last < 0 || c.MaxTxnOps > 0 && 2*len(p.txns[last].If)+2 > c.MaxTxnOps || c.MaxTxnBytes > 0 && p.bytes+bytes > c.MaxTxnBytes {
		p.txns, p.bytes = append(p.txns, Txn{}), 0
		last++
	}
	t := &p.txns[last]
	t.If, t.Then = append(t.If, cond), append(t.Then, w)
	p.bytes += bytes
}
