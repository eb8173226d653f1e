package dcs

import (
	"context"
	"errors"
	"sync"
)

// settling is a client that can settle the attempts of ambiguousCommit.
type settling struct {
	*client
	blocked bool // cannot settle for now
	fenced  bool // returns only ErrAmbiguous with Fenced set
	lost    bool // returns ErrLost because the lease was found dead
	settled int
}

// ambiguousCommit is a Commit with an unknown outcome whose effect the test decides later.
type ambiguousCommit struct {
	mu     sync.Mutex
	do     func() (Revision, error)
	rev    Revision
	landed bool
	fenced bool
}

func (u *ambiguousCommit) land() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.landed || u.fenced {
		return errors.New("too late")
	}
	rev, err := u.do()
	if err == nil {
		u.landed, u.rev = true, rev
	}
	return err
}

func (u *ambiguousCommit) err() error { return &Error{Kind: ErrAmbiguous, Attempt: u} }

func (s *settling) Settle(_ context.Context, e *Error) (Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := e.Attempt.(*ambiguousCommit)
	if s.blocked || !ok {
		return 0, &Error{Kind: ErrAmbiguous, Attempt: e.Attempt}
	}
	s.settled++
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fenced = true
	if s.fenced {
		return 0, &Error{Kind: ErrAmbiguous, Fenced: true}
	}
	if u.landed {
		return u.rev, nil
	}
	if s.lost {
		return 0, &Error{Kind: ErrLost}
	}
	return 0, &Error{Kind: ErrConflict}
}

// catch makes the next Commit that matches ambiguous, and holds it back.
func (c *client) catch(fits func(Txn) bool) *ambiguousCommit {
	u := &ambiguousCommit{}
	c.hook(func() {
		c.onCommit = func(_ context.Context, t Txn, do func() (Revision, error)) (Revision, error) {
			u.mu.Lock()
			caught := u.do == nil && fits(t)
			if caught {
				u.do = do
			}
			u.mu.Unlock()
			if !caught {
				return do()
			}
			return 0, u.err()
		}
	})
	return u
}

func anyTxn(Txn) bool     { return true }
func deletes(t Txn) bool  { return t.Then[0].Delete }
func moves(t Txn) bool    { return t.Lease() != "" && t.If[0].Is != 0 }
func errDown() error      { return &Error{Kind: ErrUnavailable, Err: errors.New("down")} }
func refuseAll(c *client) { c.hook(func() { c.onRenew = failRenew }) }

func failRenew(context.Context, LeaseID, func() (Renewal, error)) (Renewal, error) {
	return Renewal{}, errDown()
}
