package backend

import (
	"context"

	"github.com/holdfast-dcs/holdfast/dcs"
)

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
