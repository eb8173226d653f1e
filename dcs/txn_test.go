package dcs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// many returns n writes of different keys.
func many(n int) []Write {
	var out []Write
	for i := range n {
		out = append(out, Put(fmt.Sprint("k", i), nil))
	}
	return out
}

func TestTxnCheck(t *testing.T) {
	for name, txn := range map[string]Txn{
		"one write":                    {Then: []Write{Put("a", nil)}},
		"write and condition on a key": {If: []Cond{Absent("a")}, Then: []Write{Delete("a")}},
		"one lease, several keys":      {Then: []Write{PutLeased("a", nil, "l"), PutLeased("b", nil, "l"), Put("c", nil), Delete("d")}},
		"siblings":                     {If: []Cond{CreatedAt("a/b", 3)}, Then: []Write{Put("a/c", nil), Put("a b", nil), Put("ab", nil)}},
		"an absent incarnation":        {If: []Cond{CreatedAt("a", 0)}, Then: []Write{Put("a", nil)}},
		"many":                         {If: []Cond{ModifiedAt("k1", 4)}, Then: many(40)},
	} {
		if err := txn.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		txn  Txn
		says []string
	}{
		"empty":                     {Txn{}, []string{"Then is empty"}},
		"conditions only":           {Txn{If: []Cond{Absent("a")}}, []string{"Then is empty: a Txn needs at least one write"}},
		"two leases":                {Txn{Then: []Write{PutLeased("a", nil, "l1"), PutLeased("b", nil, "l2")}}, []string{`Then[1] "b": a second lease "l2" in addition to "l1"`}},
		"two writes":                {Txn{Then: []Write{Put("a", nil), Delete("a")}}, []string{`key "a" is written twice`}},
		"two conditions":            {Txn{If: []Cond{Absent("a"), CreatedAt("a", 1)}, Then: []Write{Put("b", nil)}}, []string{`key "a" has two conditions`}},
		"write below write":         {Txn{Then: []Write{Put("a/b/c", nil), Put("a", nil)}}, []string{`key "a/b/c" lies below key "a"`}},
		"condition below write":     {Txn{If: []Cond{Absent("a/b")}, Then: []Write{Put("a", nil)}}, []string{`key "a/b" lies below key "a"`}},
		"delete with value":         {Txn{Then: []Write{{Key: "a", Value: []byte("x"), Delete: true}}}, []string{"a delete carries a value or a lease"}},
		"unknown field":             {Txn{If: []Cond{{Key: "a", On: 7}}, Then: []Write{Put("a", nil)}}, []string{"field 7 is unknown: use Modified or Created"}},
		"every fault at once":       {Txn{If: []Cond{Absent("/x"), {Key: "y", On: 9}}, Then: []Write{Put("a//b", nil), Put("c", nil), Put("c/d", nil)}}, []string{"If[0]", "If[1]", "Then[0]", `"c/d" lies below key "c"`}},
		"many, one of them twice":   {Txn{Then: append(many(40), Delete("k7"))}, []string{`key "k7" is written twice`}},
		"many, one below another":   {Txn{If: []Cond{Absent("k9/x/y")}, Then: many(40)}, []string{`key "k9/x/y" lies below key "k9"`}},
		"many, two of them limited": {Txn{If: []Cond{Absent("q"), Absent("q")}, Then: many(40)}, []string{`key "q" has two conditions`}},
	} {
		b := &scripted{}
		s := newStore(t, b, Options{})
		_, commitErr := s.Commit(t.Context(), c.txn)
		for _, err := range []error{c.txn.Check(), commitErr} {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for _, says := range c.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%s: %v\ndoes not say %q", name, err, says)
				}
			}
		}
		if b.sent.Load() != 0 {
			t.Errorf("%s: the Txn was sent", name)
		}
	}
}

// Comparing all pairs and using the index find the same faults.
func TestTxnCheckIsTheSameForMany(t *testing.T) {
	keys := []string{"a", "a/b", "a/b/c", "ab", "a b", "b", "b/a", "a/c"}
	for i := range len(keys) * len(keys) * len(keys) {
		txn := Txn{
			If:   []Cond{Absent(keys[i%8])},
			Then: []Write{Put(keys[i/8%8], nil), Put(keys[i/64], nil)},
		}
		few, lots := txn.keyFaults(nil), txn.manyKeyFaults(nil)
		if (len(few) == 0) != (len(lots) == 0) {
			t.Fatalf("%+v: %v and %v", txn, few, lots)
		}
	}
}

func TestLimits(t *testing.T) {
	b := &scripted{caps: Caps{MaxValue: 10, MaxTxnOps: 3, MaxTxnBytes: 40}}
	b.commit = func(context.Context, Txn) (Revision, error) { return 1, nil }
	s := newStore(t, b, Options{})
	value := func(n int) []byte { return make([]byte, n) }
	for name, c := range map[string]struct {
		txn  Txn
		says string
	}{
		"value at the limit":      {Txn{Then: []Write{Put("k", value(10))}}, ""},
		"value over the limit":    {Txn{Then: []Write{Put("k", value(11))}}, "the value has 11 bytes: this store takes at most 10 (Caps.MaxValue)"},
		"operations at the limit": {Txn{If: []Cond{Absent("a")}, Then: many(2)}, ""},
		"one operation more":      {Txn{If: []Cond{Absent("a")}, Then: many(3)}, "the Txn has 4 conditions and writes: this store takes at most 3 (Caps.MaxTxnOps)"},
		"bytes at the limit":      {Txn{If: []Cond{Absent("12345678901234567890")}, Then: []Write{Put("12345", value(10)), Delete("54321")}}, ""},
		"one byte more":           {Txn{If: []Cond{Absent("123456789012345678901")}, Then: []Write{Put("12345", value(10)), Delete("54321")}}, "the Txn has 41 bytes of keys and values: this store takes at most 40 (Caps.MaxTxnBytes)"},
	} {
		before := b.sent.Load()
		_, err := s.Commit(t.Context(), c.txn)
		sent := b.sent.Load() > before
		if c.says == "" {
			if err != nil || !sent {
				t.Errorf("%s: %v", name, err)
			}
		} else if KindOf(err) != ErrInvalid || !strings.Contains(err.Error(), c.says) || sent {
			t.Errorf("%s: %v (sent: %v), want %q", name, err, sent, c.says)
		}
	}
	free := newStore(t, &scripted{commit: b.commit}, Options{})
	if _, err := free.Commit(t.Context(), Txn{Then: append(many(1000), Put("big", value(1<<20)))}); err != nil {
		t.Errorf("a limit of 0 limits: %v", err)
	}
}

// Writes that are few but long are split too.
func TestTxnPartsKeepTheLimits(t *testing.T) {
	for caps, want := range map[Caps]int{
		{}:                                 1,
		{MaxTxnOps: 4}:                     5,
		{MaxTxnOps: 5}:                     5,
		{MaxTxnBytes: 3 * 12}:              4,
		{MaxTxnBytes: 3*12 - 1}:            5,
		{MaxTxnOps: 2, MaxTxnBytes: 1000}:  10,
		{MaxTxnOps: 60, MaxTxnBytes: 9999}: 1,
	} {
		var p txnParts
		for i := range 10 {
			key := strconv.Itoa(i)
			p.add(Absent(key), Put(key, make([]byte, 10)), caps)
		}
		keys := 0
		for _, part := range p.txns {
			keys += len(part.Then)
			if faults := part.limitFaults(nil, caps); len(faults) > 0 {
				t.Errorf("%+v: %v", caps, faults)
			}
		}
		if len(p.txns) != want || keys != 10 {
			t.Errorf("%+v: %d Txns with %d keys, want %d with 10", caps, len(p.txns), keys, want)
		}
	}
}
