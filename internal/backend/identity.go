package backend

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Identity decides to which store a client belongs. It refuses the servers of
// every other store, and those of a store that has lost data. The identity is that
// of most of the seeds, so that all clients with one configuration choose the
// same store. See docs/decisions/0027.
type Identity struct {
	// Seeds are the endpoints of the configuration, each once. Each has one vote,
	// however many addresses its name has.
	Seeds []string
	// Pool has the endpoints of the seeds.
	Pool SeedPool
	// Budget is Timing.RetryTimeout, and Life ends when the Store is closed.
	Budget time.Duration
	Life   context.Context //nolint:containedctx // the Backend's end
	Logger *slog.Logger
	// Ask returns the identity of the store that the server at an endpoint belongs
	// to. Empty means that the store has none yet.
	Ask func(ctx context.Context, endpoint string) (string, error)

	deciding Flight[outcome]
	polls    sync.WaitGroup
	current  atomic.Pointer[string] // nil: not decided
	suspect  atomic.Bool            // not every answer is known to be the store's: all are checked

	mu        sync.Mutex
	closed    bool
	ballots   map[string]*ballot // by seed
	polled    dcs.Instant        // when the seeds were asked last; zero: never
	pollAgain bool
	round     int             // the number of polls
	answered  map[string]bool // the endpoints that have answered the present poll
	reported  bool            // the present split was logged
	confirmed bool            // most seeds have agreed on the present identity
	former    string          // the identity that the store had before its key was deleted
	history   history
}

// SeedPool is the part of the Pool that an Identity needs.
type SeedPool interface {
	// SeedEndpoints returns the endpoints of a seed.
	SeedEndpoints(ctx context.Context, seed string) []string
	// Eject ejects an endpoint of another store.
	Eject(endpoint, reason string)
}

// outcome is the outcome of a poll: an error if no server may be used.
type outcome struct{ split error }

// maxPoll bounds the wait for the seeds' answers.
const maxPoll = 450 * time.Millisecond

// pollTime returns how long silent seeds are waited for.
func (i *Identity) pollTime() time.Duration { return min(maxPoll, i.Budget/4) }

// pollInterval returns the least time between two polls.
func (i *Identity) pollInterval() time.Duration {
	return max(time.Second, time.Duration(len(i.Seeds))*time.Second/5)
}

// ID returns the identity. It is empty while the store has none, or it is not
// known.
func (i *Identity) ID() string {
	if id := i.current.Load(); id != nil {
		return *id
	}
	return ""
}

// Former returns the identity that the store had before its key was deleted.
func (i *Identity) Former() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.former
}

// Close waits for the polls under way. Life must have ended.
func (i *Identity) Close() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.polls.Wait()
}

// Ready polls the seeds if the identity is not decided. It returns as soon as
// most seeds agree, and otherwise when all have answered or [Identity.pollTime] has
// passed. It fails if the seeds belong to different stores and none of these has
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

// decided returns the present outcome, unless a poll is due.
func (i *Identity) decided() (outcome, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.polled.IsZero() || i.pollAgain {
		return outcome{}, false
	}
	split := i.split()
	return outcome{split}, split == nil || i.polled.Elapsed() < i.pollInterval()
}

// decide polls the seeds and returns the outcome. Answers that come after most
// seeds have agreed are taken in the background.
func (i *Identity) decide(ctx context.Context) (outcome, error) {
	i.mu.Lock()
	if i.closed {
		i.mu.Unlock()
		return outcome{}, dcs.ErrClosed
	}
	i.pollAgain = false
	i.round++
	round := i.round
	i.answered = map[string]bool{}
	for _, b := range i.ballots {
		b.forgetNameless()
	}
	agreed := make(chan struct{})
	i.polls.Go(func() { i.poll(round, agreed) })
	i.mu.Unlock()
	select {
	case <-agreed:
	case <-ctx.Done():
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.polled = dcs.Now()
	i.adopt()
	split := i.split()
	if split != nil && !i.reported {
		i.Logger.Error("the endpoints do not identify the store: no request is sent", "error", split)
	}
	i.reported = split != nil
	return outcome{split}, nil
}

// poll asks every endpoint of every seed. It closes agreed when most seeds agree
// or all endpoints have answered, and ejects the endpoints of other stores. An answer
// that comes after the next poll has begun counts for nothing, because the key may have
// been written since.
func (i *Identity) poll(round int, agreed chan<- struct{}) {
	ctx, cancel := context.WithTimeout(i.Life, i.pollTime())
	defer cancel()
	enough := sync.OnceFunc(func() { close(agreed) })
	var asked sync.WaitGroup
	for _, seed := range i.Seeds {
		asked.Go(func() {
			for _, at := range i.electors(ctx, seed) {
				asked.Go(func() {
					if id, err := i.Ask(ctx, at); err == nil && i.voteIn(round, at, id) {
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

// electors returns the endpoints of a seed, and forgets the votes of others.
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

// foreign returns the error of a server that belongs to the store id.
func foreign(id, own string) error {
	return fmt.Errorf("the server belongs to %s, this Store to %s: remove the server from the endpoints, or reopen the Store if the store was replaced", storeName(id), storeName(own))
}

// vote notes the store of an endpoint.
func (i *Identity) vote(at, id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cast(at, id)
}

// voteIn is vote for an answer to a poll. It reports whether most seeds have answered
// that poll and agree.
func (i *Identity) voteIn(round int, at, id string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if round != i.round {
		return false
	}
	i.answered[at] = true
	i.cast(at, id)
	_, most := i.count(func(at string) bool { return i.answered[at] })
	return most
}

// cast is vote. Under i.mu.
func (i *Identity) cast(at, id string) {
	for _, b := range i.ballots {
		b.cast(at, id)
	}
	if _, _, most := i.elected(); most {
		i.adopt()
	}
}

// count returns the store with the most seeds, and whether it has more than half
// of them, by the votes that count. Under i.mu.
func (i *Identity) count(counts func(at string) bool) (id string, most bool) {
	n := map[string]int{}
	for _, b := range i.ballots {
		if v, ok := b.choice(counts); ok {
			n[v]++
		}
	}
	for v := range n {
		if 2*n[v] > len(i.Seeds) {
			return v, true
		}
	}
	return "", false
}

// votes returns the stores of all endpoints that answered. Under i.mu.
func (i *Identity) votes() map[string]string {
	all := map[string]string{}
	for _, b := range i.ballots {
		for at, id := range b.votes {
			all[at] = id
		}
	}
	return all
}

// elected returns the store that the votes decide for: that of most seeds, or else
// the only one that answered. Under i.mu.
func (i *Identity) elected() (id string, ok, most bool) {
	if id, most = i.count(func(string) bool { return true }); most {
		return id, true, true
	}
	for _, v := range i.votes() {
		if ok && v != id {
			return "", false, false
		}
		id, ok = v, true
	}
	return id, ok, false
}

// adopt makes the elected store the client's, if the client has none yet or the
// key of its store's identity was deleted. Under i.mu.
func (i *Identity) adopt() {
	id, ok, most := i.elected()
	was := i.current.Load()
	switch {
	case !ok:
	case was == nil, *was == "":
		i.current.Store(&id)
		i.confirmed = most
	case id == *was:
		i.confirmed = i.confirmed || most
	case id == "" && most && i.confirmed:
		i.former = *was
		i.current.Store(&id)
		i.Logger.Warn("the key with the store's identity is missing: it was deleted, or the store was wiped", "identity", *was)
	}
	i.updateSuspect()
}

// split returns the error of votes that make no use of any server possible, or nil.
// Under i.mu.
func (i *Identity) split() error {
	id, ok, most := i.elected()
	own := i.current.Load()
	switch {
	case !ok && len(i.votes()) > 0:
		return &Failure{Err: fmt.Errorf("the endpoints belong to different stores, and none of these has most of the endpoints: %s; name the servers of one store", i.list())}
	case ok && most && own != nil && id != *own:
		return &Failure{Err: fmt.Errorf("most endpoints belong to another store than when this Store was opened: %s, before it was %s; correct the endpoints, or reopen the Store if the store was replaced", i.list(), storeName(*own))}
	}
	return nil
}

// list names the store of each endpoint that answered. Under i.mu.
func (i *Identity) list() string {
	var out []string
	for at, id := range i.votes() {
		out = append(out, at+" to "+storeName(id))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func storeName(id string) string {
	if id == "" {
		return "a store without an identity"
	}
	return "store " + id
}

// Check judges a server by the identity of its store. An error is a Failure
// that names the server.
func (i *Identity) Check(ctx context.Context, at, id string) error {
	own := i.current.Load()
	if own != nil && *own == id && !i.suspect.Load() {
		return nil
	}
	switch {
	case own != nil && *own != "" && id == "":
		// The server may have been asked before the key was written: only a poll finds
		// that the key is missing.
		i.requestPollIfOld()
	case own != nil && *own == "" && id != "":
		i.vote(at, id)
		i.requestPoll() // a writer has made the key meanwhile, or it is another store
	default:
		i.vote(at, id)
	}
	if err := i.Ready(ctx); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current.Load() == nil {
		i.current.Store(&id) // no seed has answered
	}
	if own = i.current.Load(); *own == id {
		i.ownAnswered()
		return nil
	}
	i.pollAgain = i.pollAgain || i.pollIsOld()
	if h := &i.history; h.foreignSince.IsZero() && (h.ownAt.IsZero() || h.ownAt.Elapsed() >= i.Budget/ownShare) {
		h.foreignSince = dcs.Now()
	}
	return i.doubt(at, i.history.foreignSince, foreign(id, *own))
}

// Answered notes an answer on a connection whose server was found to belong to
// the store.
func (i *Identity) Answered() {
	if !i.suspect.Load() {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ownAnswered()
}

// ownAnswered notes that a server of the store has answered. Under i.mu.
func (i *Identity) ownAnswered() {
	i.history.foreignSince, i.history.ownAt = dcs.Instant{}, dcs.Now()
	i.updateSuspect()
}

// pollIsOld reports whether the seeds may be polled again. Under i.mu.
func (i *Identity) pollIsOld() bool { return i.polled.Elapsed() > i.pollInterval() }

// requestPollIfOld is requestPoll, unless the seeds were polled a moment ago.
func (i *Identity) requestPollIfOld() {
	i.mu.Lock()
	old := i.pollIsOld()
	i.mu.Unlock()
	if old {
		i.requestPoll()
	}
}

// requestPoll makes the next Ready poll the seeds.
func (i *Identity) requestPoll() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pollAgain = true
	i.suspect.Store(true)
}

// updateSuspect decides whether every answer has to be checked. Under i.mu.
func (i *Identity) updateSuspect() {
	own := i.current.Load()
	suspect := i.pollAgain || i.history.inDoubt() || i.history.lost != nil
	for _, id := range i.votes() {
		suspect = suspect || own == nil || id != *own
	}
	i.suspect.Store(suspect)
}
