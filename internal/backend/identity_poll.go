package backend

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// outcome is the outcome of a poll: an error if no server may be used.
type outcome struct{ split error }

// maxPoll bounds the wait for silent seeds once the store is known.
const maxPoll = 450 * time.Millisecond

// pollTime returns how long silent seeds are waited for. A decision that gives the store its
// identity waits longer: if most seeds are slow then, the few that answer may belong to another
// store. All are slow when many clients connect at the same time, and requests would delay them
// more.
func (i *Identity) pollTime() time.Duration {
	if i.ID() == "" {
		return i.Budget / 2
	}
	return i.laterPollTime()
}

// laterPollTime returns how long seeds are waited for that were silent before.
func (i *Identity) laterPollTime() time.Duration { return min(maxPoll, i.Budget/4) }

// pollInterval returns the least time between two polls.
func (i *Identity) pollInterval() time.Duration {
	return max(time.Second, time.Duration(len(i.Seeds))*time.Second/5)
}

// Ready polls the seeds if the identity is not decided. It returns as soon as
// most seeds agree, and otherwise when all have answered or [Identity.pollTime] has
// passed. Where the store has no identity yet, seeds that did not answer the last poll are
// waited for no longer than later. It fails if the seeds belong to different stores and none of these has
// most of the seeds.
func (i *Identity) Ready(ctx context.Context) error {
	if i.current.Load() != nil && !i.suspect.Load() {
		return nil
	}
	o, err := i.deciding.Do(ctx, i.Life, i.Budget, i.decided, i.decide)
	if err != nil { // ctx or Life has ended
		return &Failure{Err: err}
	}
	return o.split
}

// Await waits for a decision about the identity if Ready would, and for none that takes
// longer than ctx. A call waits before it takes an endpoint or a connection: the polls
// need connections too, and the copies of a request have less time than the decision.
// Ready returns the outcome for each copy.
func (i *Identity) Await(ctx context.Context) { _ = i.Ready(ctx) }

// decided returns the present outcome, unless a poll is due.
func (i *Identity) decided() (outcome, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	split := i.split()
	switch {
	case i.polled.IsZero() || i.pollAgain:
		return outcome{}, false
	case i.current.Load() == nil && split == nil && len(i.votes()) > 0:
		// No seed had answered the last poll. The first answer since then decides nothing:
		// the other seeds may be about to answer too.
		return outcome{}, false
	}
	return outcome{split}, split == nil || i.polled.Elapsed() < i.pollInterval()
}

// decide polls the seeds and returns the outcome, by a poll whose answers all count.
func (i *Identity) decide(ctx context.Context) (outcome, error) {
	for {
		o, all, err := i.pollOnce(ctx)
		if all || err != nil || ctx.Err() != nil {
			return o, err
		}
	}
}

// pollOnce polls the seeds and returns the outcome. It reports whether all answers count.
// Answers that come after most seeds have agreed are taken in the background.
func (i *Identity) pollOnce(ctx context.Context) (o outcome, all bool, err error) {
	i.mu.Lock()
	if i.closed {
		i.mu.Unlock()
		return outcome{}, false, dcs.ErrClosed
	}
	i.pollAgain = false
	i.round++
	round, last := i.round, i.answered
	i.answered, i.uncounted = map[string]bool{}, false
	for _, b := range i.ballots {
		b.forgetNameless()
	}
	agreed := make(chan struct{})
	i.polls.Go(func() { i.poll(round, last, agreed) })
	i.mu.Unlock()
	select {
	case <-agreed:
	case <-ctx.Done():
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.polled = dcs.Now()
	if _, _, most := i.elected(); i.uncounted && !most {
		i.pollAgain = true // the other answers alone decide nothing
		i.updateSuspect()
		return outcome{i.split()}, false, nil
	}
	i.adopt()
	split := i.split()
	if split != nil && !i.reported {
		i.Logger.Error("the endpoints do not identify the store: no request is sent", "error", split)
	}
	i.reported = split != nil
	return outcome{split}, true, nil
}

// poll asks every endpoint of every seed. It closes agreed when most seeds agree
// or all endpoints have answered, and ejects the endpoints of other stores. An answer
// that comes after the next poll has begun counts for nothing, because the key may have
// been written since. last has the endpoints that answered the last poll.
func (i *Identity) poll(round int, last map[string]bool, agreed chan<- struct{}) {
	ctx, cancel := context.WithTimeout(i.Life, i.pollTime())
	defer cancel()
	enough := sync.OnceFunc(func() { close(agreed) })
	var isLater atomic.Bool // only endpoints of last are waited for
	if i.current.Load() != nil {
		later := time.AfterFunc(i.laterPollTime(), func() {
			if isLater.Store(true); i.haveAnswered(last) {
				enough()
			}
		})
		defer later.Stop()
	}
	var asked sync.WaitGroup
	for _, seed := range i.Seeds {
		asked.Go(func() {
			for _, at := range i.electors(ctx, seed) {
				asked.Go(func() {
					if id, err := i.Ask(ctx, at); err == nil && (i.voteIn(round, at, id) || isLater.Load() && i.haveAnswered(last)) {
						enough()
					}
				})
			}
		})
	}
	asked.Wait()
	i.ejectForeign()
	enough()
}

// haveAnswered reports whether the endpoints have answered the present poll.
func (i *Identity) haveAnswered(endpoints map[string]bool) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for at := range endpoints {
		if !i.answered[at] {
			return false
		}
	}
	return true
}

// electors returns the endpoints of a seed, and forgets the votes of isLater.
func (i *Identity) electors(ctx context.Context, seed string) []string {
	endpoints := i.Pool.SeedEndpoints(ctx, seed)
	i.mu.Lock()
	defer i.mu.Unlock()
	fresh := newBallot(endpoints)
	if old := i.ballots[seed]; old != nil {
		fresh.keep(old)
	}
	if i.ballots == nil {
		i.ballots = map[string]*ballot{}
	}
	i.ballots[seed] = fresh
	return endpoints
}

// ejectForeign ejects the seeds' endpoints that belong to other stores.
func (i *Identity) ejectForeign() {
	i.mu.Lock()
	reasons := map[string]string{}
	if own := i.current.Load(); own != nil {
		for at, id := range i.votes() {
			if id != *own {
				reasons[at] = foreign(id, *own).Error()
			}
		}
	}
	i.mu.Unlock()
	for at, reason := range reasons {
		i.Pool.Eject(at, reason)
	}
}
