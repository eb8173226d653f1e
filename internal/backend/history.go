package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// history is the knowledge of an Identity about the answers so far: whether they
// continue the store's history.
type history struct {
	ownAt        dcs.Instant // of the latest answer of a server of the store, while all are checked
	foreignSince dcs.Instant // since then only servers of other stores have answered; zero: not so
	olderSince   dcs.Instant // since then every answer has been older than one before; zero: not so
	older        int         // such answers
	decisive     bool        // the request was admitted whose answer can prove the loss
	reason       error       // of the latest doubt
	logged       bool
	lost         error // the store has lost data: final
	tokens       float64
	filled       dcs.Instant
}

func (h *history) inDoubt() bool { return !h.foreignSince.IsZero() || !h.olderSince.IsZero() }

const (
	// doubtfulRate is how many requests are sent a second while every answer
	// raises doubt, and doubtfulBurst how many at once. Each may need up to three
	// reads of the server.
	doubtfulRate  = 3
	doubtfulBurst = 3
	// ownShare is the part of a budget for which an answer of the store's own
	// proves that a foreign server is only one of several.
	ownShare = 8
	// provenOlder answers at least prove that the store has lost data.
	provenOlder = 3
)

// AdmitRequest is Admit, and waits until the store of this client is known.
func (i *Identity) AdmitRequest(ctx context.Context, at string) error {
	if err := i.Admit(ctx, at); err != nil {
		return err
	}
	if err := i.Ready(ctx); err != nil {
		return NotSent(err)
	}
	return nil
}

// Admit returns an error if no request may be sent now. While every answer raises
// doubt, few are sent, and a probe waits until it may be. None is sent once the
// store was found to have lost data.
func (i *Identity) Admit(ctx context.Context, at string) error {
	for {
		err := i.admit(at)
		if err == nil || Judge(err).Final || ctx.Value(probing{}) == nil || ctx.Err() != nil {
			return err
		}
		backoff.Sleep(ctx, admitPause)
	}
}

// admitPause is how long a probe waits before it asks again.
const admitPause = 50 * time.Millisecond

// probing marks the context of a probe.
type probing struct{}

// Probing marks ctx as that of a probe.
func Probing(ctx context.Context) context.Context { return context.WithValue(ctx, probing{}, true) }

func (i *Identity) admit(at string) error {
	if !i.suspect.Load() {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	h := &i.history
	switch {
	case h.lost != nil:
		return &Failure{Endpoint: at, Kind: dcs.ErrUnavailable, Err: h.lost, Refused: true}
	case !h.inDoubt():
		return nil
	}
	h.tokens = min(doubtfulBurst, h.tokens+doubtfulRate*h.filled.Elapsed().Seconds())
	h.filled = dcs.Now()
	if !h.decisive && !h.olderSince.IsZero() && h.olderSince.Elapsed() >= i.Budget/2 {
		h.decisive, h.tokens = true, max(h.tokens, 1)
	}
	if h.tokens < 1 {
		return &Failure{Endpoint: at, Err: fmt.Errorf("no request was sent, because no server answers for the store: %w", h.reason), Refused: true, Local: true}
	}
	h.tokens--
	return nil
}

// Follows judges an answer at revision got to a request that was sent when
// before was the newest revision known. A linearizable answer is never older. If
// all servers answer so for half a budget, the store was restored from an older
// backup or wiped, which is final. An error is a Failure that names the server.
func (i *Identity) Follows(at string, before, got dcs.Revision) error {
	if got >= before {
		i.continues()
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	h := &i.history
	if h.olderSince.IsZero() {
		h.olderSince, h.older, h.decisive = dcs.Now(), 0, false
	}
	h.older++
	err := i.doubt(at, h.olderSince, fmt.Errorf("the server answers at revision %d although revision %d was seen before: its data are older than the store's", got, before))
	if h.lost == nil && h.older >= provenOlder && h.olderSince.Elapsed() >= i.Budget/2 {
		h.lost = fmt.Errorf("the store is at revision %d and was at %d before: it was restored from an older backup, or wiped; check its data and reopen the Store", got, before)
		i.Logger.Error("the store has lost data: no request is sent any more", "endpoint", at, "revision", uint64(got), "seen_before", uint64(before), "remedy", "check the data of the store and reopen the Store")
	}
	if h.lost != nil {
		return &Failure{Endpoint: at, Kind: dcs.ErrUnavailable, Err: h.lost}
	}
	return err
}

// continues ends all doubt, because a server has answered for the store.
func (i *Identity) continues() {
	if !i.suspect.Load() {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.history.foreignSince, i.history.olderSince, i.history.logged = dcs.Instant{}, dcs.Instant{}, false
	i.updateSuspect()
}

// doubt notes an answer that is not the store's, as all have been since then,
// and returns its Failure. Under i.mu.
func (i *Identity) doubt(at string, since dcs.Instant, reason error) error {
	h := &i.history
	if h.reason == nil {
		h.filled, h.tokens = dcs.Now(), doubtfulBurst
	}
	h.reason = fmt.Errorf("%s: %w", at, reason)
	if h.olderSince.IsZero() && !h.logged && !since.IsZero() && since.Elapsed() >= i.Budget/2 {
		h.logged = true
		i.Logger.Error("no server answers for the store", "endpoint", at, "error", reason)
	}
	i.suspect.Store(true)
	return &Failure{Endpoint: at, Err: reason, Blame: true}
}
