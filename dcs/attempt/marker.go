package attempt

import (
	"context"
	"errors"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var errVanished = errors.New("the marker vanished right after it was made")

// prepare makes s's marker if it has none, and reads what Commits on it will
// be conditional on.
func (c *Committer) prepare(ctx context.Context, s *markerSlot) error {
	if s.made {
		return nil
	}
	var last error
	for ctx.Err() == nil {
		if s.key == "" {
			name, err := c.name()
			if err != nil {
				return c.fail("Commit", "", dcs.ErrUnavailable, err)
			}
			s.key = name
		}
		if err := c.create(ctx, s.key); err != nil {
			return err
		}
		entries, err := c.read(ctx, s.key)
		if err != nil {
			return err
		}
		if m := (Answer{Entries: entries}).entry(s.key); m != nil {
			s.made, s.modified = true, m.Modified
			return nil
		}
		s.forget()
		last = errVanished
	}
	return c.outOfTime(ctx, last)
}

// create makes the marker in a transaction of its own, if absent (P8). It may
// be repeated under the same name, because the marker is read afterwards. A copy
// that lands late finds the marker present, or makes another incarnation whose
// revision differs (docs/decisions/0011).
func (c *Committer) create(ctx context.Context, key string) error {
	nonce, err := c.random(nonceBytes)
	if err != nil {
		return c.fail("Commit", "", dcs.ErrUnavailable, err)
	}
	v := c.newCopies(func(ctx context.Context, n position) event {
		ans, err := c.t.Send(ctx, n.request(Marker{Key: key, Create: true, Nonce: nonce}, dcs.Txn{}))
		return event{ans: ans, err: err}
	})
	return c.runUntil(ctx, v, func(e event) bool { return e.ans.Outcome == Applied || e.ans.Outcome == Refused })
}

// read reads keys, as often as it takes.
func (c *Committer) read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	var found []dcs.Entry
	v := c.newCopies(func(ctx context.Context, _ position) event {
		entries, err := c.t.Read(ctx, keys...)
		return event{ans: Answer{Entries: entries}, err: err}
	})
	err := c.runUntil(ctx, v, func(e event) bool { found = e.ans.Entries; return true })
	return found, err
}

// until runs v, whose copies need not exclude each other, to the first answer
// that is done.
func (c *Committer) runUntil(ctx context.Context, v *copies, done func(event) bool) error {
	var last error
	// The copies that are still out when one has answered end with this call.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for {
		e, more := v.next(ctx)
		switch {
		case !more:
			return c.outOfTime(ctx, last)
		case e.err == nil && done(e):
			return nil
		case e.err != nil:
			last = asCause(e.err)
			if final := c.finalFailure(e.err); final != nil {
				return final
			}
		}
		v.fails++
	}
}

// final returns the failure that err ends a Commit with, or nil if the store
// may be asked again. ErrAmbiguous contradicts ErrNotSent and ends nothing. A
// store that is full stays so, and every copy may be the one that it applies.
func (c *Committer) finalFailure(err error) *dcs.Error {
	kind := dcs.KindOf(err)
	if kind == nil || kind == dcs.ErrAmbiguous || !errors.Is(err, ErrNotSent) && !errors.Is(err, ErrFull) { //nolint:errorlint // KindOf returns a sentinel
		return nil
	}
	f := c.fail("Commit", "", kind, err)
	var e *dcs.Error
	if errors.As(err, &e) {
		f.Key, f.Endpoint = e.Key, e.Endpoint
		if e.Err != nil {
			f.Err = e.Err // the store's own words
		}
	}
	return f
}
