package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var kvCases = []spec{
	{Case: Case{
		Name:       "KV/ReadYourWrite",
		Rule:       "A read that starts after a commit returned sees it, on the same client.",
		Motivation: "Stores that serve reads from the nearest member return an older state.",
	}, run: readYourWrite},
	{Case: Case{
		Name:       "KV/LinearizableAcrossClients",
		Rule:       "A read that starts after a commit returned sees it, on any client; the history of concurrent reads, writes and compare-and-sets on several clients is linearizable.",
		Motivation: "A manager that reads an old leader key through another member acts on an obsolete state.",
	}, alone: true, run: linearizableAcrossClients},
	{Case: Case{
		Name:       "KV/HostileKeys",
		Rule:       "Keys outside the grammar are ErrInvalid before anything is sent, for every call. Every printable byte is stored verbatim. A prefix ends at a slash. A conflict on a key that is named like an error of the store is ErrConflict.",
		Motivation: "Percent signs and double slashes in a Consul URL name another key; an etcd range over members/a also returns members/ab; a conflict on a key named \"invalid session\" ended the Session on Consul.",
	}, run: hostileKeys},
	{Case: Case{
		Name:       "KV/NestedKeys",
		Rule:       "A write of a key below or above another one is ErrInvalid with nothing written, or is stored in full: neither key hides, changes or removes the other.",
		Motivation: "ZooKeeper has no node below an ephemeral one, and a tree that takes a node with children for a directory hides its value.",
	}, run: nestedKeys},
	{Case: Case{
		Name:       "KV/Limits",
		Rule:       "Values and transactions within Caps are stored. One byte or operation more is ErrInvalid before anything is sent. Empty and binary values survive.",
		Motivation: "Limits that are only the server's own show up as unclear errors after the request was sent.",
	}, run: limits},
}

func readYourWrite(e *env) {
	a, _ := e.pair()
	k := e.key("k")
	for i := range 50 {
		want := fmt.Sprint("v", i)
		r := a.put(k, want)
		en := a.get(k)
		require.Equal(e, want, string(en.Value))
		require.Equal(e, r, en.Modified)
		s := a.snapshot(k)
		require.Len(e, s.Entries, 1)
		require.Equal(e, en, s.Entries[0], "Snapshot and Get differ")
		if s.Revision < r {
			e.Fatalf("a Snapshot begun after revision %d is at %d", r, s.Revision)
		}
	}
	a.del(k)
	a.absent(k, "it was deleted by the same client")
	require.Empty(e, a.snapshot(k).Entries)
}

func linearizableAcrossClients(e *env) {
	clients := []*client{e.open(), e.open(), e.open()}
	k := e.key("k")
	for i := range 60 {
		w := e.intn(3)
		r := clients[(w+1+e.intn(2))%3]
		if e.intn(10) == 0 {
			clients[w].del(k)
			r.absent(k, "another client had deleted it before")
			continue
		}
		rev := clients[w].put(k, fmt.Sprint(i))
		en := r.get(k)
		require.Equal(e, fmt.Sprint(i), string(en.Value))
		require.Equal(e, rev, en.Modified)
	}
	e.checkHistory(e.registerHistory(clients))
}

// operation is one operation on a register, for porcupine.
type operation struct {
	key   string
	op    byte // r, w, c
	value string
	seen  string       // the value that a compare-and-set had read
	rev   dcs.Revision // its condition
}

// result is its answer; ok false: a conflict.
type result struct {
	value string
	ok    bool
}

// registerHistory makes the clients work on three keys at once and returns the history of
// their operations.
func (e *env) registerHistory(clients []*client) []porcupine.Operation {
	var mu sync.Mutex
	var history []porcupine.Operation
	// Ticks instead of time, because virtual time stands still, and only the order of
	// calls and returns counts.
	var unique, clock atomic.Int64
	e.together(2*len(clients), func(i int) {
		c := clients[i%len(clients)]
		for range 25 {
			in := operation{key: e.key("r", fmt.Sprint(e.intn(3))), op: "rrwc"[e.intn(4)], value: fmt.Sprint(unique.Add(1))}
			if in.op == 'c' {
				if en, err := c.Get(e.ctx, in.key); err == nil {
					in.seen, in.rev = string(en.Value), en.Modified
				}
			}
			call := clock.Add(1)
			out := c.operate(in)
			op := porcupine.Operation{ClientId: i, Input: in, Output: out, Call: call, Return: clock.Add(1)}
			mu.Lock()
			history = append(history, op)
			mu.Unlock()
			e.pause()
		}
	})
	return history
}

func (c *client) operate(in operation) result {
	var txn dcs.Txn
	switch in.op {
	case 'r':
		en, err := c.Get(c.e.ctx, in.key)
		if errors.Is(err, dcs.ErrNotFound) {
			return result{}
		}
		require.NoError(c.e, err)
		return result{value: string(en.Value), ok: true}
	case 'c':
		txn.If = []dcs.Cond{dcs.ModifiedAt(in.key, in.rev)}
	}
	txn.Then = []dcs.Write{dcs.Put(in.key, []byte(in.value))}
	_, err := c.Commit(c.e.ctx, txn)
	if in.op == 'c' && errors.Is(err, dcs.ErrConflict) {
		return result{}
	}
	require.NoError(c.e, err)
	return result{ok: true}
}

// checkHistory requires that a history is linearizable, key by key. Values are unique, so
// that a revision and a value identify the same state of a register.
func (e *env) checkHistory(history []porcupine.Operation) {
	model := porcupine.Model{
		Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, op := range h {
				k := op.Input.(operation).key
				byKey[k] = append(byKey[k], op)
			}
			var out [][]porcupine.Operation
			for _, p := range byKey {
				out = append(out, p)
			}
			return out
		},
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			in, out, now := input.(operation), output.(result), state.(string)
			switch {
			case in.op == 'r':
				return out.value == now, now
			case in.op == 'w':
				return true, in.value
			case out.ok:
				return in.seen == now, in.value
			default:
				return in.seen != now, now
			}
		},
	}
	if !porcupine.CheckOperations(model, history) {
		e.Fatalf("the history of %d operations on three registers is not linearizable", len(history))
	}
}

// hostile are keys outside the grammar.
func hostile() []string {
	return []string{
		".", "..", "a/../b", "a/./b", "/a", "a/", "a//b", "//", "/", "a\x00b", "a\nb", "a\tb", "a\x7fb", "a\x1bb",
		"schlüssel", "鍵", "a\xffb", "\xc3", strings.Repeat("k", 513), strings.Repeat("a/", 256) + "b", ".hidden", ".a/b", "...",
	}
}

// counted is a backend that counts the calls that reach it.
type counted struct {
	dcs.Backend
	calls atomic.Int64
}

func (c *counted) Get(ctx context.Context, key string) (dcs.Entry, error) {
	c.calls.Add(1)
	return c.Backend.Get(ctx, key)
}

func (c *counted) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	c.calls.Add(1)
	return c.Backend.Snapshot(ctx, prefix)
}

func (c *counted) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	c.calls.Add(1)
	return c.Backend.Wait(ctx, prefix, since)
}

func (c *counted) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	c.calls.Add(1)
	return c.Backend.Commit(ctx, t)
}

func (c *counted) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	c.calls.Add(1)
	return c.Backend.Grant(ctx, ttl)
}

// counting returns a client whose backend calls are counted.
func (e *env) counting() (*client, *counted) {
	b := &counted{Backend: e.s.Open(e)}
	return e.wrap(b), b
}

// refused requires that f returns ErrInvalid and that no call reached the backend.
func (e *env) refused(b *counted, what string, f func() error) {
	before := b.calls.Load()
	e.kind(f(), dcs.ErrInvalid, what)
	if n := b.calls.Load() - before; n != 0 {
		e.Fatalf("%s: refused only after %d calls of the backend", what, n)
	}
}

func hostileKeys(e *env) {
	c, calls := e.counting()
	for _, k := range hostile() {
		e.refused(calls, fmt.Sprintf("Get(%q)", k), func() error { _, err := c.Get(e.ctx, k); return err })
		e.refused(calls, fmt.Sprintf("Snapshot(%q)", k), func() error { _, err := c.Snapshot(e.ctx, k); return err })
		e.refused(calls, fmt.Sprintf("Wait(%q)", k), func() error { _, err := c.Wait(e.ctx, k, 0); return err })
		for _, txn := range []dcs.Txn{
			{Then: []dcs.Write{dcs.Put(k, nil)}},
			{Then: []dcs.Write{dcs.Delete(k)}},
			{If: []dcs.Cond{dcs.Absent(k)}, Then: []dcs.Write{dcs.Put(e.key("k"), nil)}},
		} {
			e.refused(calls, fmt.Sprintf("Commit(%q)", k), func() error { _, err := c.Commit(e.ctx, txn); return err })
		}
	}
	s := c.session()
	l, _ := c.grant()
	for _, k := range hostile() {
		e.refused(calls, fmt.Sprintf("Renew(%q)", k), func() error { _, err := l.Renew(e.ctx, k); return err })
		e.refused(calls, fmt.Sprintf("TryAcquire(%q)", k), func() error { _, err := s.TryAcquire(e.ctx, k, nil); return err })
		e.refused(calls, fmt.Sprintf("Acquire(%q)", k), func() error { _, err := s.Acquire(e.ctx, k, nil); return err })
		e.refused(calls, fmt.Sprintf("Publish(%q)", k), func() error { _, err := s.Publish(e.ctx, k, nil); return err })
	}
	require.Empty(e, c.snapshot(e.prefix).Entries, "a refused call wrote something")
	verbatimKeys(e)
	errorTextKeys(e)
}

func verbatimKeys(e *env) {
	a, b := e.pair()
	keys := []string{
		e.key("a%2Fb"), e.key("a%"), e.key("%00"), e.key("+"), e.key("a b"), e.key(" "), e.key("a..b"), e.key(".x"), e.key("x."),
		e.key("?q=1#f"), e.key(`back\slash`), e.key(`"quoted"`), e.key("UPPER"), e.key("upper"),
		e.key(strings.Repeat("k", 512-len(e.prefix)-1)),
	}
	for ch := byte(' '); ch < 0x7f; ch++ {
		if ch != '/' {
			keys = append(keys, e.key("byte", "x"+string(ch)+"y"))
		}
	}
	want := map[string]string{}
	for i, k := range keys {
		want[k] = fmt.Sprint("value ", i)
		a.put(k, want[k])
	}
	require.Equal(e, want, tree(b.snapshot(e.prefix)))
	for k, v := range want {
		require.Equal(e, v, string(b.get(k).Value))
	}

	a.put(e.key("members", "a"), "1")
	a.put(e.key("members", "ab"), "2")
	a.put(e.key("members", "a!"), "3") // '!' sorts before '/'
	require.Equal(e, map[string]string{e.key("members", "a"): "1"}, tree(b.snapshot(e.key("members", "a"))))
	require.Len(e, b.snapshot(e.key("members")).Entries, 3)
}

// unlimited is the value for a limit that Caps does not set.
const unlimited = 1 << 20

func orUnlimited(n int) int {
	if n == 0 {
		return unlimited
	}
	return n
}

func limits(e *env) {
	c, calls := e.counting()
	reader := e.open()
	caps := c.Caps()
	k := e.key("k")
	maxValue := orUnlimited(caps.MaxValue)
	if caps.MaxTxnOps != 0 && caps.MaxTxnOps < 4 || caps.MaxTxnBytes != 0 && caps.MaxTxnBytes < maxValue {
		e.Fatalf("Caps allow less than a lock needs: %+v", caps)
	}
	biggest := bytes.Repeat([]byte{0, 0xff, '\n', 'x'}, maxValue/4+1)[:maxValue]
	c.commit(dcs.Txn{Then: []dcs.Write{dcs.Put(k, biggest)}})
	if !bytes.Equal(biggest, reader.get(k).Value) {
		e.Fatalf("a value of %d bytes came back changed", maxValue)
	}
	if caps.MaxValue > 0 {
		e.refused(calls, "a value of MaxValue + 1", func() error {
			_, err := c.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(k, append(biggest, 'x'))}})
			return err
		})
	}
	for _, v := range [][]byte{nil, {}, {0}, []byte("\x00\x01\xfe\xff\r\n%&<>\"")} {
		c.commit(dcs.Txn{Then: []dcs.Write{dcs.Put(k, v)}})
		if got := reader.get(k).Value; !bytes.Equal(v, got) {
			e.Fatalf("value %q came back as %q", v, got)
		}
	}
	if caps.MaxTxnOps > 0 {
		opsLimit(e, c, calls)
	}
	if caps.MaxTxnBytes > 0 {
		bytesLimit(e, c, calls)
	}
}

func opsLimit(e *env, c *client, calls *counted) {
	var t dcs.Txn
	for i := range c.Caps().MaxTxnOps {
		if k := e.key("ops", fmt.Sprint(i)); i%2 == 0 {
			t.Then = append(t.Then, dcs.Put(k, []byte("x")))
		} else {
			t.If = append(t.If, dcs.Absent(k))
		}
	}
	c.commit(t)
	require.Len(e, c.snapshot(e.key("ops")).Entries, len(t.Then))
	t.If = append(t.If, dcs.Absent(e.key("more")))
	e.refused(calls, "MaxTxnOps + 1 operations", func() error { _, err := c.Commit(e.ctx, t); return err })
}

func bytesLimit(e *env, c *client, calls *counted) {
	caps := c.Caps()
	maxValue, maxOps := orUnlimited(caps.MaxValue), orUnlimited(caps.MaxTxnOps)
	var t dcs.Txn
	left := caps.MaxTxnBytes
	for i := 0; left > 0 && i < maxOps-1; i++ {
		k := e.key("bytes", fmt.Sprintf("%04d", i))
		if left < len(k) {
			break
		}
		n := min(left-len(k), maxValue)
		t.Then = append(t.Then, dcs.Put(k, bytes.Repeat([]byte{'x'}, n)))
		left -= len(k) + n
	}
	if left > 0 {
		e.Logf("MaxTxnBytes (%d) cannot be reached exactly within MaxTxnOps and MaxValue", caps.MaxTxnBytes)
		return
	}
	c.commit(t)
	// One byte more, in a key, because no value may exceed MaxValue.
	t.If = append(t.If, dcs.Absent("k"))
	e.refused(calls, "MaxTxnBytes + 1 bytes", func() error { _, err := c.Commit(e.ctx, t); return err })
}
