package elector

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Config configures an [Elector].
type Config struct {
	// Store, Scope, Name and Service are required. Scope is the name of the
	// cluster, and Name that of this member, which no other process may use. The
	// Store must stay open until Run has returned.
	Store   *dcs.Store
	Scope   string
	Name    string
	Service Service

	// Timing has the times of the elector. The zero value is that of the Store,
	// with defaults.
	Timing Timing
	// Member is the record that is published for this member: APIURL, ConnURL,
	// Version, Tags and Extra. Name, Instance and Pause are set by the elector. The
	// fields that a [Reporter] reports come before these.
	Member cluster.Member
	// Asker asks other members for their identity and position before this one
	// leads, and before it hands over. Nil means that the published records count.
	// With an Asker, Member.APIURL must answer with [Elector.Identity]. A question that
	// has not returned by its deadline is abandoned, and its address is not asked again
	// until that question has returned.
	Asker cluster.Asker
	// Policy decides whether this member may lead. Nil means [DefaultPolicy].
	Policy Policy
	// Failsafe asks the other members in failsafe mode, so that a leader can go on
	// in an outage of the store. Nil means that this member takes no part: it leads
	// only while no failsafe list is stored. It needs an Asker. Its questions are
	// bounded like those of the Asker.
	Failsafe FailsafeTransport
	// NoKeeper makes the leader end with its lock in a pause too. Set it for a
	// service that ends with this process; [Lead] does.
	NoKeeper bool
	// Guardian stops the service when this process cannot, because it is stopped,
	// swapped out, killed or hangs. Nil means that nothing does. Package guardian has a
	// child process and a watchdog device.
	Guardian Guardian
	// Exit ends the process when the service could not be stopped. It must not
	// return. Exit or Guardian is required if the Service is no [Fencer]. The default
	// is [ExitProcess]. If it returns nevertheless, Run returns ErrNotStopped, and
	// the lock is left to expire.
	Exit func(Reason)
	// Logger receives changes of the state and faults. Nil means silent.
	Logger *slog.Logger
}

// ErrNotStopped reports that the service could not be stopped. It may still act as
// primary: the process must end.
var ErrNotStopped = errors.New("the service could not be stopped in time")

// withDefaults returns c with its defaults, or an ErrInvalid with every fault.
func (c Config) withDefaults() (Config, error) {
	var faults []error
	add := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	c.Timing.Failsafe = c.Timing.Failsafe || c.Failsafe != nil // E4
	if c.Failsafe != nil && c.Asker == nil {
		add(errors.New("Failsafe is set and Asker is nil: a member must find out whether it reaches itself"))
	}
	if c.Store == nil {
		add(errors.New("Store is nil: pass an open Store"))
	} else {
		if c.Timing.Timing == (dcs.Timing{}) {
			c.Timing.Timing = c.Store.Timing()
		}
		add(c.Timing.Validate(c.Store.Caps()))
	}
	add(cluster.CheckScope(c.Scope))
	add(cluster.CheckName(c.Name))
	if c.Service == nil {
		add(errors.New("Service is nil"))
	} else if _, ok := c.Service.(Fencer); !ok && c.Exit == nil && c.Guardian == nil {
		add(fmt.Errorf("%T is no Fencer, and Exit and Guardian are nil: a service that cannot be stopped would go on; implement Fence, or set Guardian, or Exit to elector.ExitProcess", c.Service))
	}
	if c.Exit == nil {
		c.Exit = ExitProcess
	}
	if c.Policy == nil {
		c.Policy = DefaultPolicy
	}
	c.Member.Name = c.Name
	if _, err := c.Member.Encode(); err != nil && cluster.CheckName(c.Name) == nil {
		add(err)
	}
	if c.Asker != nil && c.Member.APIURL == "" {
		add(errors.New("Asker is set and Member.APIURL is empty: the other members could not ask this one"))
	}
	c.Logger, _ = dcs.Detached(c.Logger, dcs.Observer{})
	c.Logger = c.Logger.With("scope", c.Scope, "member", c.Name)
	if err := errors.Join(faults...); err != nil {
		return c, &dcs.Error{Op: "New", Kind: dcs.ErrInvalid, Err: errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))}
	}
	return c, nil
}
