package conformance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var callCases = []spec{
	{Case: Case{
		Name:       "Call/BudgetKept",
		Rule:       "Every call returns within the smaller of its context's deadline and RetryTimeout, plus 100 ms, even if the store is silent. If it is cut short, its error states only known outcomes.",
		Motivation: "Retries that each have a timeout of their own add up, and the manager's loop hangs in one of them for a minute.",
	}, sleeps: true, run: budgetKept},
	{Case: Case{
		Name:       "Call/CtxCancelled",
		Rule:       "A call whose context ends returns within 100 ms and matches the context's error; one that had ended before writes nothing.",
		Motivation: "A cancelled write that is carried on by a library's own goroutine.",
	}, sleeps: true, run: ctxCancelled},
	{Case: Case{
		Name:       "Call/SilenceEnds",
		Rule:       "Wait and Acquire have no budget, but a store that is silent for RetryTimeout ends them with ErrUnavailable. They never hang, and work again when it answers.",
		Motivation: "A watch on a member that was cut off never returned, and its callers waited for ever.",
	}, sleeps: true, run: silenceEnds},
	{Case: Case{
		Name:       "Call/NoGrowth",
		Rule:       "A client that stays open keeps no goroutine, connection or other descriptor of Waits that were given up, of Sessions and Holds that have ended, and of requests that were lost.",
		Motivation: "With each outage a client of ZooKeeper kept the connections, 20 goroutines and 10 MiB of its lost sessions, until its process was out of memory.",
	}, alone: true, run: noGrowth},
}

// call is one method of the contract, on keys of the case.
type call struct {
	name string
	do   func(ctx context.Context) error
}

// caller is a client with one object of each kind, and every call that has a budget. No
// two calls use the same object, so that all can be made at once.
func (e *env) caller() (*client, []call) {
	c := e.open()
	// A second caller of the case has another prefix.
	at := func(part string) string { return e.key(part, c.serial) }
	k := at("k")
	c.put(k, "v")
	renewed, _ := c.grant()
	revoked, _ := c.grant()
	s := c.session()
	confirmed, updated, released := e.acquire(s, at("confirmed"), ""), e.acquire(s, at("updated"), ""), e.acquire(s, at("released"), "")
	put := dcs.Txn{Then: []dcs.Write{dcs.Put(at("put"), []byte("x"))}}
	return c, []call{
		{"Get", func(ctx context.Context) error { _, err := c.Get(ctx, k); return err }},
		{"Snapshot", func(ctx context.Context) error { _, err := c.Snapshot(ctx, e.prefix); return err }},
		{"Commit", func(ctx context.Context) error { _, err := c.Commit(ctx, put); return err }},
		{"Grant", func(ctx context.Context) error { _, _, err := c.Grant(ctx, e.timing.TTL); return err }},
		{"Renew", func(ctx context.Context) error { _, err := renewed.Renew(ctx, k); return err }},
		{"Revoke", revoked.Revoke},
		{"TryAcquire", func(ctx context.Context) error { _, err := s.TryAcquire(ctx, at("tried"), nil); return err }},
		{"Publish", func(ctx context.Context) error { _, err := s.Publish(ctx, at("members"), nil); return err }},
		{"Confirm", confirmed.Confirm},
		{"Update", func(ctx context.Context) error { return updated.Update(ctx, []byte("x")) }},
		{"Release", released.Release},
	}
}

func budgetKept(e *env) {
	healthyBudgets(e)
	if !e.hasInject() {
		return // calls were measured on a healthy store only
	}
	for _, do := range []Verb{LoseRequest, LoseAnswer} {
		for _, short := range []bool{false, true} {
			c, calls := e.caller()
			lift := e.inject(c, Fault{Do: do})
			e.together(len(calls), func(i int) { e.cutShort(calls[i], short) })
			lift()
		}
	}
}

// healthyBudgets makes every call with a short deadline, by which it must return with any
// result.
func healthyBudgets(e *env) {
	_, calls := e.caller()
	for _, c := range calls {
		limit := 30 * time.Millisecond
		ctx, cancel := context.WithTimeout(e.ctx, limit)
		begin := time.Now()
		_ = c.do(ctx) // on a healthy store it may well succeed in time
		cancel()
		e.atMost(time.Since(begin), limit+slack, begin, fmt.Sprintf("%s with a context of %v", c.name, limit))
	}
}

// cutShort makes a call that no server answers.
func (e *env) cutShort(c call, short bool) {
	ctx, limit := e.ctx, e.budget()
	if short {
		limit /= 3
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	begin := time.Now()
	err := c.do(ctx)
	took := time.Since(begin)
	e.atMost(took, limit+slack, begin, c.name+" to a silent store")
	if err == nil {
		e.Errorf("%s to a silent store succeeded", c.name)
		return
	}
	if !errors.Is(err, dcs.ErrUnavailable) {
		e.Errorf("%s to a silent store returned %v, which no server can have answered", c.name, err)
	}
}

func ctxCancelled(e *env) {
	c, calls := e.caller()
	before := c.snapshot(e.prefix)
	ended, cancel := context.WithCancel(e.ctx)
	cancel()
	for _, call := range calls {
		if call.name == "Release" {
			continue // it first gives the Hold up, and reports that
		}
		e.promptly(slack, call.name+" with a context that has ended", func() {
			err := call.do(ended)
			e.kind(err, dcs.ErrUnavailable, call.name+" with a context that has ended")
			require.ErrorIs(e, err, context.Canceled, call.name)
		})
	}
	require.Equal(e, before.Entries, c.snapshot(e.prefix).Entries, "a call with a context that had ended wrote something")
	if !e.hasInject() {
		return
	}
	for _, do := range []Verb{LoseRequest, LoseAnswer} {
		c, calls := e.caller()
		lift := e.inject(c, Fault{Do: do})
		e.together(len(calls), func(i int) {
			ctx, cancel := context.WithCancel(e.ctx)
			begin := time.Now()
			var at time.Time
			timer := time.AfterFunc(e.budget()/4, func() { at = time.Now(); cancel() })
			err := calls[i].do(ctx)
			took := time.Since(begin)
			if timer.Stop() {
				cancel()
				e.Errorf("%s to a silent store returned after %v: %v", calls[i].name, took, err)
				return
			}
			<-ctx.Done()
			e.atMost(took-at.Sub(begin), slack, at, calls[i].name+" after its context ended")
			if !errors.Is(err, dcs.ErrUnavailable) || !errors.Is(err, context.Canceled) {
				e.Errorf("%s, cancelled: %v; want one that matches ErrUnavailable and context.Canceled", calls[i].name, err)
			}
		})
		lift()
	}
}

func silenceEnds(e *env) {
	a, b := e.pair()
	lock := e.key("lock")
	h := e.acquire(b.session(), lock, "b")
	s := a.session()
	since := a.snapshot(e.prefix).Revision
	waits := map[string]func() error{
		"Wait":    func() error { _, err := a.Wait(e.ctx, e.prefix, since); return err },
		"Acquire": func() error { _, err := s.Acquire(e.ctx, lock, nil); return err },
	}
	for name, wait := range waits {
		var err error
		done := e.start(func() { err = wait() })
		e.pass(2 * e.budget()) // while the store answers, the call continues
		select {
		case <-done:
			e.Fatalf("%s ended while the store answers: %v", name, err)
		default:
		}
		lift := e.inject(a, Fault{Do: LoseAnswer})
		e.within(e.budget()+slack, done, name+" ends when the store is silent for RetryTimeout")
		e.kind(err, dcs.ErrUnavailable, name+" on a silent store")
		lift()
	}
	seen, done := e.waking(a, lock, since)
	require.NoError(e, h.Release(e.ctx))
	e.within(e.budget()+slack, done, "Wait works again when the store answers")
	require.Empty(e, seen.Entries)
}
