package dcs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
)

// publishing is a publisher without a Session. Its leases are "own" and "earlier".
type publishing struct {
	*bench
	publisher
	c     *client
	gets  int
	lost  []string // the keys that onDisplaced has reported
	mutex sync.Mutex
}

const member = "members/a"

func publishAlone(b *bench) *publishing {
	p := &publishing{bench: b, c: &client{w: b.w}}
	p.c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) { p.gets++; return do() }
	for _, id := range []LeaseID{"own", "earlier", "other"} {
		b.w.extend(id, 1<<40)
	}
	p.publisher = publisher{
		store: b.store(p.c), mu: &p.mutex, pubs: map[string]*publication{},
		owns:        func(id LeaseID) bool { return id == "own" || id == "earlier" },
		onDisplaced: func(key string, _ error) { p.lost = append(p.lost, key) },
	}
	return p
}

// write has another client write the key.
func (p *publishing) write(value string, lease LeaseID) Revision {
	p.Helper()
	rev, err := p.c.w.apply(Txn{Then: []Write{PutLeased(member, []byte(value), lease)}}, true)
	p.must(err)
	return rev
}

// wants checks the condition of the next write of value.
func (p *publishing) wants(value string, want *Cond, from LeaseID, gets int) {
	p.Helper()
	p.gets = 0
	cond, displaced, err := p.condition(p.Context(), member, "own", []byte(value))
	p.must(err)
	if (cond == nil) != (want == nil) || cond != nil && *cond != *want || displaced != from || p.gets != gets {
		p.Fatalf("condition %v, taken over from %q, %d reads; want %v, %q, %d", cond, displaced, p.gets, want, from, gets)
	}
}

func modifiedAt(r Revision) *Cond { c := ModifiedAt(member, r); return &c }

// P19: the first write takes over the entry that it has read. Later ones are
// conditional on the last own write, without a read.
func TestP19PublisherConditions(t *testing.T) {
	inTime(t, func(b *bench) {
		p := publishAlone(b)
		p.wants("one", modifiedAt(0), "", 1)
		foreign := p.write("theirs", "other")
		p.wants("one", modifiedAt(foreign), "other", 1)
		displaced, written, err := p.publish(b.Context(), member, "own", []byte("one"))
		b.must(err)
		own, _ := b.w.get(member)
		if displaced != "other" || *written != *modifiedAt(foreign) || own.Lease != "own" {
			b.Fatalf("taken over from %q under %v: %+v", displaced, written, own)
		}
		p.wants("one", nil, "", 0)
		p.wants("two", modifiedAt(own.Modified), "", 0)
		p.forget(member)
		p.wants("one", nil, "", 1)
		moved := p.write("one", "earlier")
		p.forget(member)
		p.wants("one", modifiedAt(moved), "", 1) // the lease in use must own it
	})
}

// P19: a key that was taken over is reported once and written again only once it is
// absent.
func TestP19PublisherIsDisplaced(t *testing.T) {
	inTime(t, func(b *bench) {
		p := publishAlone(b)
		_, _, err := p.publish(b.Context(), member, "own", []byte("one"))
		b.must(err)
		p.write("theirs", "other")
		for range 2 {
			_, written, err := p.publish(b.Context(), member, "own", []byte("two"))
			b.is(err, ErrConflict)
			if written != nil {
				b.Error("an error that is not that of a write has a condition")
			}
		}
		if !slices.Equal(p.lost, []string{member}) || !slices.Equal(p.displacedKeys(), p.lost) || len(p.appendChecked(nil)) != 0 {
			b.Fatalf("reported %q, displaced %q, renewals check %v", p.lost, p.displacedKeys(), p.appendChecked(nil))
		}
		_, err = b.w.apply(Txn{Then: []Write{Delete(member)}}, true)
		b.must(err)
		p.wants("two", modifiedAt(0), "", 1)
		_, _, err = p.publish(b.Context(), member, "own", []byte("two"))
		b.must(err)
		if p.displacedKeys() != nil || len(p.appendChecked(nil)) != 1 {
			b.Error("the key is not published again")
		}
	})
}

// P5: the entry that a renewal has read concerns only the publication that it listed.
func TestP5PublisherChecks(t *testing.T) {
	inTime(t, func(b *bench) {
		p := publishAlone(b)
		_, _, err := p.publish(b.Context(), member, "own", []byte("one"))
		b.must(err)
		listed := p.appendChecked(nil)[0].pub
		for _, lease := range []LeaseID{"own", "earlier"} {
			p.check(listed, Entry{Key: member, Lease: lease}, true)
		}
		_, _, err = p.publish(b.Context(), member, "own", []byte("two"))
		b.must(err)
		p.check(listed, Entry{}, false) // deleted before the second write
		if len(p.lost) != 0 {
			b.Fatalf("reported %q", p.lost)
		}
		p.check(p.appendChecked(nil)[0].pub, Entry{Key: member, Lease: "other"}, true)
		if len(p.lost) != 1 {
			b.Error("a takeover was not reported")
		}
	})
}

// P19: a first write whose outcome stays unknown is a first one only while the key is
// at the revision that it had then. A settled outcome of any other is known.
func TestP19PublisherSettles(t *testing.T) {
	for _, how := range []settleResult{fenced, unsupported} {
		inTime(t, func(b *bench) {
			p := publishAlone(b)
			seen := p.write("theirs", "other")
			p.settled(member, []byte("one"), seen, 0, how)
			if len(p.appendChecked(nil)) != 0 {
				b.Error("a renewal checks a key that may not be this session's")
			}
			p.wants("one", modifiedAt(seen), "other", 1)
			p.write("theirs", "other")
			_, _, err := p.condition(b.Context(), member, "own", []byte("one"))
			b.is(err, ErrConflict)
		})
	}
	inTime(t, func(b *bench) {
		p := publishAlone(b)
		p.settled(member, []byte("one"), 0, 0, refused)
		p.settled(member, []byte("one"), 0, 0, interrupted)
		if len(p.pubs) != 0 {
			b.Error("a write that was not applied is recorded")
		}
		p.settled(member, []byte("one"), 0, 7, landed)
		p.wants("one", nil, "", 0)
		p.settled(member, []byte("two"), 7, 0, fenced)
		p.wants("three", modifiedAt(7), "", 0) // until it is forgotten
	})
}

// An ambiguous write is returned with its condition, and the next one reads the key.
func TestPublisherAmbiguous(t *testing.T) {
	inTime(t, func(b *bench) {
		p := publishAlone(b)
		_, _, err := p.publish(b.Context(), member, "own", []byte("one"))
		b.must(err)
		own, _ := b.w.get(member)
		p.c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
			return 0, errors.New("the connection broke")
		}
		_, written, err := p.publish(b.Context(), member, "own", []byte("two"))
		b.is(err, ErrAmbiguous)
		if *written != *modifiedAt(own.Modified) {
			b.Errorf("written under %v", written)
		}
		p.wants("two", modifiedAt(own.Modified), "", 1)
	})
}
