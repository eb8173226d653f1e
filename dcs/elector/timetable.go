package elector

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Timing is the time that an elector has for each of its duties. Fields that are
// zero have a default, which follows from the TTL.
type Timing struct {
	// Timing is that of the session. Its TTL is the granted one where that is
	// known.
	dcs.Timing
	// StopTimeout is how long before the deadline a demotion begins when renewals
	// fail. The default is a quarter of the TTL, or less where the rule leaves
	// less.
	StopTimeout time.Duration
	// FenceTimeout is how long before the deadline a demotion that is not done is
	// ended by force. The default is a quarter of StopTimeout, at most a second.
	FenceTimeout time.Duration
	// LostTimeout is how long a demotion may take once the lock is lost. The
	// default is a second.
	LostTimeout time.Duration
	// HandoverTimeout is how long a demotion may take that was asked for, while the
	// lock is renewed. The default is the TTL.
	HandoverTimeout time.Duration
	// PromoteTimeout is how long a promotion may take. The default is the TTL.
	PromoteTimeout time.Duration
	// Failsafe says that the cluster can be in failsafe mode, which takes time to
	// ask its members.
	Failsafe bool
}

// Table has the moments of one life of a lease, counted from the From of the last
// confirmed renewal.
type Table struct {
	// Renew is when the next renewal is sent, and Retried when it and one more have
	// used up their time.
	Renew, Retried time.Duration
	// Ask is when the members are asked in failsafe mode; equal to Demote where
	// that is not possible.
	Ask time.Duration
	// Demote is when a demotion begins, Fence when it is ended by force, and
	// Guardian when a child process kills the service.
	Demote, Fence, Guardian time.Duration
	// Deadline is when the Hold ends, and Others the earliest moment at which
	// another member can have the lock.
	Deadline, Others time.Duration
	// Gate is how long the elector's loop may hang before the session renews no
	// more.
	Gate time.Duration
}

const (
	maxAsk     = 2 * time.Second
	maxFence   = time.Second
	lostTime   = time.Second
	askShare   = 15
	stopShare  = 4
	fenceShare = 4
)

// askTime returns how long asking the members may take.
func (t Timing) askTime() time.Duration { return min(maxAsk, t.TTL/askShare) }

// askTimeout returns the time for asking the members before a demotion.
func (t Timing) askTimeout() time.Duration {
	if !t.Failsafe {
		return 0
	}
	return t.askTime()
}

// left returns the time that a renewal which fails leaves for a demotion (E4).
func (t Timing) left() time.Duration {
	return t.TTL - dcs.Margin(t.TTL) - t.RenewEvery(t.TTL) - t.RetryTimeout - t.askTimeout()
}

// WithDefaults returns t with the defaults of its zero fields.
func (t Timing) WithDefaults() Timing {
	t.Timing = t.Timing.WithDefaults()
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&t.StopTimeout, max(0, min(t.TTL/stopShare, t.left())))
	set(&t.FenceTimeout, min(maxFence, t.StopTimeout/fenceShare))
	set(&t.LostTimeout, lostTime)
	set(&t.HandoverTimeout, t.TTL)
	set(&t.PromoteTimeout, t.TTL)
	return t
}

// Validate returns an ErrInvalid with every fault of t, defaults filled in.
func (t Timing) Validate(c dcs.Caps) error {
	t.Timing = t.Timing.WithDefaults()
	faults := []error{t.Timing.Validate(c)}
	if t.TTL = max(t.TTL, c.MinTTL); c.MaxTTL > 0 {
		t.TTL = min(t.TTL, c.MaxTTL) // E4: on the granted TTL
	}
	t = t.WithDefaults()
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"FenceTimeout", t.FenceTimeout},
		{"LostTimeout", t.LostTimeout},
		{"HandoverTimeout", t.HandoverTimeout},
		{"PromoteTimeout", t.PromoteTimeout},
	} {
		if f.d <= 0 {
			faults = append(faults, fmt.Errorf("%s %v must be more than 0", f.name, f.d))
		}
	}
	switch left := t.left(); { // E4
	case left <= 0:
		faults = append(faults, fmt.Errorf("TTL %v leaves no time to demote after a renewal that fails (RenewEvery %v, RetryTimeout %v, asking %v): use a shorter RetryTimeout or LoopWait, or a longer TTL",
			t.TTL, t.RenewEvery(t.TTL), t.RetryTimeout, t.askTimeout()))
	case t.StopTimeout <= 0 || t.StopTimeout > left:
		faults = append(faults, fmt.Errorf("StopTimeout %v is not in (0, %v], which TTL %v, RenewEvery %v, RetryTimeout %v and asking %v leave", t.StopTimeout, left, t.TTL, t.RenewEvery(t.TTL), t.RetryTimeout, t.askTimeout()))
	}
	if t.FenceTimeout >= t.StopTimeout && t.StopTimeout > 0 {
		faults = append(faults, fmt.Errorf("FenceTimeout %v leaves nothing of StopTimeout %v for Demote: use less", t.FenceTimeout, t.StopTimeout))
	}
	if err := errors.Join(faults...); err != nil {
		return &dcs.Error{Op: "Timetable", Kind: dcs.ErrInvalid, Err: err}
	}
	return nil
}

// Timetable returns the moments that follow from t, or an ErrInvalid with every
// fault of t.
func Timetable(t Timing) (Table, error) {
	if err := t.Validate(dcs.Caps{}); err != nil {
		return Table{}, err
	}
	return t.WithDefaults().table(), nil
}

// table returns the moments that follow from t, which has its defaults.
func (t Timing) table() Table {
	deadline := t.TTL - dcs.Margin(t.TTL)
	b := Table{
		Renew: t.RenewEvery(t.TTL), Retried: t.RenewEvery(t.TTL) + t.RetryTimeout,
		Demote: deadline - t.StopTimeout, Fence: deadline - t.FenceTimeout, Guardian: deadline - t.FenceTimeout/2,
		Deadline: deadline, Others: t.TTL, Gate: t.TTL / 2,
	}
	b.Ask = b.Demote - t.askTimeout()
	return b
}
