package attempt

import (
	"context"
	"errors"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var errVanished = errors.New("the marker disappeared right after it was created")

// prepare creates the marker of s if it has none, and reads the revision on which
// Commits will be conditional.
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

// create creates the marker in a transaction of its own, if absent (P8). It may be
// repeated under the same name, because the marker is read afterwards. A copy that is
// applied late finds the marker present, or creates another incarnation, whose revision
// differs (docs/decisions/0011).
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

// read reads keys and tries again until it has an answer or ctx ends.
func (c *Committer) read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	var found []dcs.Entry
	v := c.newCopies(func(ctx context.Context, _ position) event {
		entries, err := c.t.Read(ctx, keys...)
		return event{ans: Answer{Entries: entries}, err: err}
	})
	err := c.runUntil(ctx, v, func(e event) bool { found = e.ans.Entries; return true })
	return found, err
}

// runUntil runs v until an answer satisfies done. The copies of v need not exclude each
// other.
func (c *Committer) runUntil(ctx context.Context, v *copies, done func(event) bool) error {
	var last error
	// Copies that are unanswered when one has been answered end with this call.
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

// finalFailure returns the error with which err ends a Commit, or nil if the store may
// be tried again. ErrAmbiguous contradicts ErrNotSent and ends nothing. A store that
// is full stays full, and may apply each further copy.
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
			f.Err = e.Err // the store's own text
		}
	}
	return f
}
