package dcs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// plainDiff compares every key.
func plainDiff(s, older Snapshot) []string {
	var out []string
	keys := map[string]bool{}
	for _, e := range slices.Concat(s.Entries, older.Entries) {
		keys[e.Key] = true
	}
	for key := range keys {
		o, was := older.Get(key)
		n, is := s.Get(key)
		if was != is || o.Modified != n.Modified {
			out = append(out, fmt.Sprint(key, o.Modified, n.Modified))
		}
	}
	slices.Sort(out)
	return out
}

func texts(changes []Change) []string {
	var out []string
	for _, c := range changes {
		var o, n Entry
		if c.Old != nil {
			o = *c.Old
		}
		if c.New != nil {
			n = *c.New
		}
		out = append(out, fmt.Sprint(c.Key(), o.Modified, n.Modified))
	}
	return out
}

// Diff returns the same as a comparison of all keys, in the order of the keys.
func TestDiff(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 3000 {
		w := newWorld()
		put := func(n int) {
			for range n {
				key := fmt.Sprintf("k%02d", r.IntN(20))
				write := Put(key, nil)
				if r.IntN(3) == 0 {
					write = Delete(key)
				}
				if _, err := w.apply(Txn{Then: []Write{write}}, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		put(r.IntN(40))
		older := w.snapshot("")
		put(r.IntN(1 + round%30))
		s := w.snapshot("")
		if got, want := texts(s.Diff(older)), plainDiff(s, older); !slices.Equal(got, want) {
			t.Fatalf("round %d: from %v to %v: got %v, want %v", round, older, s, got, want)
		}
		back := s.Diff(older)
		for i := range back {
			back[i] = Change{Old: back[i].New, New: back[i].Old}
		}
		if got := older.Diff(s); !slices.Equal(texts(got), texts(back)) {
			t.Fatalf("round %d: backwards: got %v, want %v", round, texts(got), texts(back))
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	w := newWorld()
	for i := range 5000 {
		_, _ = w.apply(Txn{Then: []Write{Put(fmt.Sprintf("locks/%05d", i), nil)}}, false)
	}
	older := w.snapshot("")
	_, _ = w.apply(Txn{Then: []Write{Delete("locks/02500"), Put("locks/04000", nil), Put("locks/05001", nil)}}, false)
	s := w.snapshot("")
	for b.Loop() {
		if n := len(s.Diff(older)); n != 3 {
			b.Fatal(n)
		}
	}
}
