package conformance

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// smallWrite is above the number of bytes that a write of a small key and value adds to a
// Txn.
const smallWrite = 100

// writeMany commits n small writes, as many in a Txn as the store takes and two Txns at once.
// With more, Txns that create keys in one directory would wait for each other for longer
// than a budget on some stores.
func (c *client) writeMany(n int, write func(i int) dcs.Write) {
	ops := cmp.Or(c.Caps().MaxTxnOps, aTransaction)
	if limit := c.Caps().MaxTxnBytes; limit > 0 {
		ops = max(min(ops, limit/smallWrite), 1)
	}
	const workers = 2
	c.e.together(workers, func(w int) {
		for from := w * ops; from < n; from += workers * ops {
			var t dcs.Txn
			for i := from; i < min(from+ops, n); i++ {
				t.Then = append(t.Then, write(i))
			}
			c.commit(t)
		}
	})
}

// largeTree is a tree of many keys that stay. Two more, its first and its last key, come and
// go together.
type largeTree struct {
	e                   *env
	size                int
	prefix, first, last string

	mu                 sync.Mutex
	made               []guests // the state at the beginning and every change, in order
	bySnapshot, byWait []guests // as the reader found them
}

// guests is the state of the two keys that come and go.
type guests struct {
	revision dcs.Revision
	value    string // "" if they are absent
	when     time.Time
}

// enough is the number of Snapshots, and of states that Wait returned, after which the keys
// may stop coming and going.
const enough = 3

func waitLargeTree(e *env) {
	writer, reader := e.pair()
	l := &largeTree{e: e, size: e.rounds(2000, 5000), prefix: e.key("tree"), first: e.key("tree", "a"), last: e.key("tree", "z")}
	name := func(i int) string { return fmt.Sprintf("k%05d", i) }
	timed := func(what string, f func()) {
		began := time.Now()
		f()
		e.Logf("%d keys: %s took %v", l.size, what, time.Since(began).Round(time.Millisecond))
	}
	timed("writing", func() {
		writer.writeMany(l.size, func(i int) dcs.Write { return dcs.Put(e.key("tree", name(i)), []byte(name(i))) })
	})
	timed("the first Snapshot", func() { l.made = []guests{l.guests(reader.snapshot(l.prefix))} })

	l.comeAndGo(writer, reader)
	l.consistent()

	timed("deleting", func() {
		writer.writeMany(l.size, func(i int) dcs.Write { return dcs.Delete(e.key("tree", name(i))) })
		writer.commit(dcs.Txn{Then: []dcs.Write{dcs.Delete(l.first), dcs.Delete(l.last)}})
	})
	e.promptly(e.budget()+slack, "Wait returns the empty tree", func() {
		reader.follow(l.prefix, l.made[0].revision, time.Minute, nil, func(s dcs.Snapshot) bool { return len(s.Entries) == 0 })
	})
}

// comeAndGo makes the guests come and go while reader reads and follows the tree.
func (l *largeTree) comeAndGo(writer, reader *client) {
	e, began, since, over := l.e, time.Now(), l.made[0].revision, make(chan struct{})
	reading := e.start(func() {
		for {
			began := time.Now()
			l.found(&l.bySnapshot, reader.snapshot(l.prefix))
			e.breathe(max(20*time.Millisecond, time.Since(began))) // half of the time is for Wait
			select {
			case <-over:
				return
			default:
			}
		}
	})
	const end = "end"
	following := e.start(func() {
		reader.follow(l.prefix, since, 10*time.Minute, nil, func(s dcs.Snapshot) bool {
			return l.found(&l.byWait, s).value == end
		})
	})
	for i := 1; (i <= e.rounds(20, 100) || !l.enough()) && !e.Failed() && !l.overdue(began); i++ {
		l.change(writer, fmt.Sprint(i))
		l.change(writer, "")
	}
	close(over)
	l.change(writer, end)
	e.within(e.budget()+slack, following, "Wait returns the last change of a large tree")
	e.within(e.budget()+slack, reading, "a Snapshot of a large tree ends")
	if e.Failed() {
		e.FailNow()
	}
	e.Logf("%d changes in %v: %d Snapshots, and Wait returned %d states", len(l.made)-1, time.Since(began).Round(time.Millisecond), len(l.bySnapshot), len(l.byWait))
	e.atMost(l.slowest(), e.budget()+slack, began, "the time until Wait returns a change of a large tree")
}

// change makes the guests come with a value, or go.
func (l *largeTree) change(writer *client, value string) {
	t := dcs.Txn{Then: []dcs.Write{dcs.Delete(l.first), dcs.Delete(l.last)}}
	if value != "" {
		t.Then = []dcs.Write{dcs.Put(l.first, []byte(value)), dcs.Put(l.last, []byte(value))}
	}
	at := writer.commit(t)
	l.made = append(l.made, guests{at, value, time.Now()})
	l.e.breathe(25 * time.Millisecond)
}

// guests returns the state of the guests in s. All other keys must be in s.
func (l *largeTree) guests(s dcs.Snapshot) guests {
	first, there := s.Get(l.first)
	last, _ := s.Get(l.last)
	want := l.size
	if there {
		want += 2
	}
	if len(s.Entries) != want || string(first.Value) != string(last.Value) || first.Modified != last.Modified {
		l.e.Fatalf("the tree at %d has %d keys, want %d; the first is %q of %d, the last is %q of %d",
			s.Revision, len(s.Entries), want, first.Value, first.Modified, last.Value, last.Modified)
	}
	for _, en := range s.Entries {
		if en.Key != l.first && en.Key != l.last && !strings.HasSuffix(en.Key, string(en.Value)) {
			l.e.Fatalf("%q is %q at %d, and was never changed", en.Key, en.Value, s.Revision)
		}
	}
	return guests{s.Revision, string(first.Value), time.Now()}
}

// found records the state of the guests in s.
func (l *largeTree) found(by *[]guests, s dcs.Snapshot) guests {
	g := l.guests(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	*by = append(*by, g)
	return g
}

func (l *largeTree) enough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.bySnapshot) >= enough && len(l.byWait) >= enough
}

// overdue reports whether Wait, which began then, returns no more changes.
func (l *largeTree) overdue(began time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.byWait); n > 0 {
		began = l.byWait[n-1].when
	}
	return l.e.since(began, l.e.budget()+slack, "").excess() > 0
}

// consistent requires that every state that was found is the one at its revision.
func (l *largeTree) consistent() {
	for _, g := range slices.Concat(l.bySnapshot, l.byWait) {
		i := sort.Search(len(l.made), func(i int) bool { return l.made[i].revision > g.revision })
		if last := l.made[max(i-1, 0)]; last.value != g.value {
			l.e.Fatalf("the keys that come and go were %q at %d, but were set to %q at %d", g.value, g.revision, last.value, last.revision)
		}
	}
}

// slowest returns the longest time from a change until Wait returned a state with it.
func (l *largeTree) slowest() (longest time.Duration) {
	for _, m := range l.made[1:] {
		i := sort.Search(len(l.byWait), func(i int) bool { return l.byWait[i].revision >= m.revision })
		longest = max(longest, l.byWait[i].when.Sub(m.when))
	}
	return longest
}
