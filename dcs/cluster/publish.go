package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Publisher publishes a member's record. A position changes all the time, and each
// record that is written wakes every member. A record that differs from the last
// one by its Position only is therefore written at most once in a while; a member
// that needs the position now asks the other one, see [Verify].
//
// A Publisher belongs to one Session. All methods are safe for concurrent use.
type Publisher struct {
	session *dcs.Session
	scope   string
	every   time.Duration

	turn chan struct{} // has one element unless a call is under way
	last []byte        // without the position
	at   dcs.Instant
}

// NewPublisher returns a Publisher that writes a mere change of the Position once in
// every at most. The LoopWait of the session's Timing is a good value.
func NewPublisher(session *dcs.Session, scope string, every time.Duration) *Publisher {
	p := &Publisher{session: session, scope: scope, every: every, turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// Publish publishes m with [dcs.Session.Publish], unless only its Position has
// changed and the last record is not old enough. It returns the lease of the
// session that was displaced, if there was one. A call waits for an earlier one, and
// returns ErrUnavailable with nothing sent if ctx ends first.
func (p *Publisher) Publish(ctx context.Context, m Member) (displaced dcs.LeaseID, err error) {
	value, err := m.Encode()
	if err != nil {
		return "", err
	}
	m.Position = 0
	rest, err := m.Encode()
	if err != nil {
		return "", err
	}
	select {
	case <-p.turn:
		defer func() { p.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", &dcs.Error{Op: "Publish", Key: MemberKey(p.scope, m.Name), Kind: dcs.ErrUnavailable, Err: fmt.Errorf("an earlier Publish is under way: %w", ctx.Err())}
	}
	if p.last != nil && string(rest) == string(p.last) && p.at.Elapsed() < p.every {
		return "", nil
	}
	now := dcs.Now()
	displaced, err = p.session.Publish(ctx, MemberKey(p.scope, m.Name), value)
	if p.last, p.at = rest, now; err != nil {
		p.last = nil // the next call tries again
	}
	return displaced, err
}
