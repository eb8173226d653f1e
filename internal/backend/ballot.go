package backend

import (
	"maps"
	"slices"
)

// ballot has the votes of one seed: the store that each of its endpoints belongs
// to.
type ballot struct {
	endpoints []string
	votes     map[string]string // by endpoint; silent ones are absent
}

func newBallot(endpoints []string) *ballot {
	return &ballot{endpoints: endpoints, votes: map[string]string{}}
}

// cast notes the store of one of the seed's endpoints. Others have no vote.
func (b *ballot) cast(at, id string) {
	if slices.Contains(b.endpoints, at) {
		b.votes[at] = id
	}
}

// keep takes over the votes of old for the endpoints that both have.
func (b *ballot) keep(old *ballot) {
	for at, id := range old.votes {
		b.cast(at, id)
	}
}

// forgetNameless forgets the votes for a store without an identity, which may have
// one by now.
func (b *ballot) forgetNameless() {
	maps.DeleteFunc(b.votes, func(_, id string) bool { return id == "" })
}

// choice returns the store of more than half of the seed's endpoints. Where there
// is none, the seed votes for no store. Votes of endpoints for which counts is false do
// not count.
func (b *ballot) choice(counts func(at string) bool) (id string, ok bool) {
	n := map[string]int{}
	for at, v := range b.votes {
		if !counts(at) {
			continue
		}
		if n[v]++; 2*n[v] > len(b.endpoints) {
			return v, true
		}
	}
	return "", false
}
