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
	written   int             // the poll during which an identity was found first, where the store had none
	uncounted bool            // answers to the present poll did not count, because of written
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

// foreign returns the error of a server that belongs to the store id.
func foreign(id, own string) error {
	return fmt.Errorf("the server belongs to %s, this Store to %s: remove the server from the endpoints, or reopen the Store if the store was replaced", storeName(id), storeName(own))
}

// vote notes the store of an endpoint. A server without an identity may have been asked
// before the key was written: only a poll finds that the key is missing.
func (i *Identity) vote(at, id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	own := i.ID()
	if id == "" && own != "" {
		return
	}
	if id != "" && own == "" && !i.isKnown(id) { // the copies of a request find one key
		i.written = i.round
	}
	i.cast(at, id)
}

// isKnown reports whether an endpoint has voted for a store. Under i.mu.
func (i *Identity) isKnown(id string) bool {
	for _, v := range i.votes() {
		if v == id {
			return true
		}
	}
	return false
}

// voteIn is vote for an answer to a poll. It reports whether most seeds have answered
// that poll and agree. Where the key was found meanwhile, the next poll decides about a
// server without an identity.
func (i *Identity) voteIn(round int, at, id string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if round != i.round {
		return false
	}
	if id == "" && round == i.written {
		i.uncounted = true
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
