package conformance

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var identityCases = faultCases([]spec{
	{Case: Case{
		Name:       "Identity/ForeignServer",
		Rule:       "Of three configured servers one belongs to another store: all clients use the store of the two, a lock has one holder, and an event names the third server and the reason. With one server of each store no call succeeds, and the error names both.",
		Motivation: "An address that was given to another cluster: of 40 etcd clients with one configuration 32 chose one cluster and 8 the other, and on Consul two clients held one key.",
	}, run: foreignServer, limit: 5 * time.Minute},
	{Case: Case{
		Name:       "Identity/LostData",
		Rule:       "The store is wiped (slow profile: and restored from an older backup) under a running client: within B + ε each call succeeds at a revision that is not older than before, or fails with an error that says that the Store must be reopened, and is logged once. A client sends at most 10 requests a second meanwhile, the Hold ends, and a client that is opened again works.",
		Motivation: "etcd's revisions fall, and a client that waited for a later one read 3,426 times a second. ZooKeeper closes each connection on which a client names a newer transaction.",
	}, run: lostData, limit: 5 * time.Minute},
})

func foreignServer(e *env) {
	c := e.cluster()
	e.needs(c.Foreign != nil, "Cluster.Foreign")
	foreign := c.Foreign(e)
	own := c.Endpoints[:2]
	for round := range e.rounds(3, 12) {
		list := slices.Insert(slices.Clone(own), round%3, foreign)
		slices.Reverse(list[:2])
		lock := e.key("lock", fmt.Sprint(round))
		a, decided := e.opened(Opening{Endpoints: list})
		b, _ := e.opened(Opening{Endpoints: list})
		h := e.acquire(a.session(), lock, "a")
		other, err := b.session().TryAcquire(e.ctx, lock, []byte("b"))
		if err == nil && h.Valid() && other.Valid() {
			e.Fatalf("two holders of one key: %v", list)
		}
		e.kind(err, dcs.ErrConflict, "TryAcquire of a key that another client holds")
		e.stillHeld(b, h, "with a server of another store")
		until := time.Now().Add(2*e.budget() + e.timing.LoopWait)
		for len(decided.of(foreign, 0, dcs.Ejected)) == 0 && time.Now().Before(until) {
			e.breathe(10 * time.Millisecond)
		}
		e.explained(decided.of(foreign, 0, dcs.Ejected), foreign)
		require.NoError(e, h.Release(e.ctx))
		require.NoError(e, a.Close())
		require.NoError(e, b.Close())
	}
	e.dividedEndpoints([]string{own[0], foreign})
}

// dividedEndpoints requires that no call succeeds with servers of two stores of
// which neither has most.
func (e *env) dividedEndpoints(list []string) {
	c, _, err := e.openWith(Opening{Endpoints: list})
	if err == nil {
		_, err = c.Snapshot(e.ctx, "")
	}
	if !errors.Is(err, dcs.ErrUnavailable) {
		e.Fatalf("with one server of each of two stores: %v", err)
	}
	for _, at := range list {
		require.ErrorContains(e, err, at, "the error names the server")
	}
}

func lostData(e *env) {
	c := e.cluster()
	e.needs(c.Wipe != nil, "Cluster.Wipe")
	e.losesData("wiped", func() func() { return func() { c.Wipe(e) } })
	if slowProfile() && e.has(c.Backup != nil, "Cluster.Backup") {
		e.losesData("restored from a backup", func() func() { return c.Backup(e) })
	}
}

// losesData requires that a client copes with a store that loses data. prepare
// returns the function that causes the loss, which how describes.
func (e *env) losesData(how string, prepare func() (lose func())) {
	var log lockedBuffer
	a, _ := e.opened(Opening{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))})
	lock := e.key("lock", how)
	a.put(e.key("old"), "v")
	lose := prepare()
	h := e.acquire(a.session(), lock, "a")
	for i := range 50 {
		require.NoError(e, h.Update(e.ctx, []byte(fmt.Sprint(i))))
	}
	before, err := a.Snapshot(e.ctx, e.prefix)
	require.NoError(e, err)

	lose()
	began, sent := time.Now(), e.requests(a)
	reopen := false
	e.promptly(e.budget()+slack, "to find that the store was "+how, func() {
		for time.Since(began) < e.budget() {
			now, err := a.Snapshot(e.ctx, e.prefix)
			if err == nil && now.Revision < before.Revision {
				e.Fatalf("Snapshot of a store that was %s went back from revision %d to %d", how, before.Revision, now.Revision)
			}
			if reopen = err != nil && strings.Contains(err.Error(), "reopen"); reopen || err == nil {
				e.Logf("%s: %v", how, err)
				return
			}
		}
		e.Errorf("no error says within %v that the Store must be reopened", e.budget())
	})
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		_, err := a.Snapshot(e.ctx, e.prefix)
		if reopen {
			require.ErrorContains(e, err, "reopen")
		}
		e.breathe(time.Millisecond)
	}
	e.fewRequests(a, sent, time.Since(began))
	e.within(e.timing.TTL, h.Done(), "the Hold ends")
	if lines := strings.Count(log.String(), "\n"); reopen && lines != 1 {
		e.Errorf("%d errors were logged: %s", lines, log.String())
	}
	require.NoError(e, a.Close())
	b, _ := e.opened(Opening{})
	again := e.acquire(b.session(), lock, "b")
	e.stillHeld(b, again, "after the store was "+how)
}

// requests returns how many requests c has sent, where the harness counts them.
func (e *env) requests(c *client) int64 {
	if !e.has(e.s.Requests != nil, "Requests") {
		return 0
	}
	return e.s.Requests(c.raw)
}

// fewRequests requires that c has sent at most 10 requests a second, and 10 at
// once, since it had sent n.
func (e *env) fewRequests(c *client, n int64, took time.Duration) {
	if sent := e.requests(c) - n; float64(sent) > 10+10*took.Seconds() {
		e.Errorf("%d requests in %v", sent, took.Round(time.Millisecond))
	}
}
