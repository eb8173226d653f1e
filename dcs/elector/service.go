package elector

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Service is the program that an elector makes primary and replica: a database, an
// address, a job.
//
// Promote, Demote and Follow never run at the same time, and never in the
// elector's own goroutine (E8). A method that panics has failed.
type Service interface {
	// Promote makes the service primary and returns when it is. Calling it on a
	// primary must change nothing.
	//
	// ctx ends when the demotion begins, also after Promote has returned. A
	// Promote that is under way then must return soon, because Demote waits for
	// it. An error, and a Promote that takes longer than PromoteTimeout, begin a
	// demotion (E2).
	Promote(ctx context.Context, l *Leadership) error

	// Demote makes the service a replica or stops it. It returns nil only when
	// the service does not act as primary any more. Calling it on a replica must
	// change nothing.
	//
	// ctx ends at the fence time of the demotion, or before that if the lock is
	// lost meanwhile. A Demote that fails or has not returned by then is followed
	// by Fence (E3).
	Demote(ctx context.Context, r Reason) error
}

// Fencer is a Service that can be stopped by force.
type Fencer interface {
	// Fence stops the service by force, also while Promote or Demote runs. After
	// nil the service must not act as primary, and no earlier Promote may have any
	// effect, also one that still runs. Fence must not block: it has half of
	// FenceTimeout. Otherwise the process ends, see [Config.Exit].
	Fence(r Reason) error
}

// Follower is a Service that needs to know the leader.
type Follower interface {
	// Follow makes the service a replica of the leader. It is called when the
	// leader or its ConnURL changes, and again after a LoopWait if it failed. ctx
	// ends when the leader changes or is gone. Follow must return soon then,
	// because the elector acquires nothing while it runs.
	Follow(ctx context.Context, leader cluster.Member) error
}

// Candidate is a Service that has a say in whether it may lead.
type Candidate interface {
	// Eligible returns nil if the service may lead the cluster as it is in v, or
	// the reason against it. It may run while another method does.
	Eligible(ctx context.Context, v *cluster.View) error
}

// Reporter is a Service that reports its state.
//
// An elector demotes a service that reports to be primary without the lock, and one
// that reports to be none while it leads (E2). A Service without Report, or whose
// first report fails, is demoted once at the start, because it may be primary.
type Reporter interface {
	// Report returns the state of the service: State, Role, Position, Timeline,
	// ConnURL, Version, Tags and Extra. Fields that are empty are those of
	// [Config.Member]. It is called once a LoopWait and when the leader changes,
	// and may run while another method does.
	Report(ctx context.Context) (cluster.Member, error)
}

// Cause is why a demotion begins.
type Cause uint8

const (
	// CauseStart says that the service was found primary, or that its role was
	// unclear, while this member does not hold the lock.
	CauseStart Cause = iota
	// CauseLost says that the lock is lost: it was deleted or taken over, its lease
	// has ended, or its deadline has passed. Another member may lead already.
	CauseLost
	// CauseExpiring says that renewals fail and that the deadline is near.
	CauseExpiring
	// CausePromote says that Promote failed or took too long.
	CausePromote
	// CauseUnhealthy says that the service reports to be no primary any more.
	CauseUnhealthy
	// CauseSwitchover says that another member is to lead.
	CauseSwitchover
	// CauseShutdown says that Run's context has ended.
	CauseShutdown
)

var causeNames = [...]string{
	"primary without the lock", "lock lost", "lock not renewed", "promotion failed", "service is not primary", "switchover", "shutdown",
}

// String returns the cause in words.
func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return fmt.Sprintf("cause %d", uint8(c))
}

// Reason is why a service must stop to be primary.
type Reason struct {
	Cause Cause
	// Err is the error behind it, or nil.
	Err error
}

// String returns the cause and the error.
func (r Reason) String() string {
	if r.Err == nil {
		return r.Cause.String()
	}
	return fmt.Sprintf("%v: %v", r.Cause, r.Err)
}

// ExitCode is the exit status of [ExitProcess].
const ExitCode = 70

// ExitProcess ends the process at once, with status [ExitCode] and a line on
// standard error. It is a value for [Config.Exit].
func ExitProcess(r Reason) {
	fmt.Fprintf(os.Stderr, "elector: the service could not be stopped in time (%v): the process ends\n", r)
	os.Exit(ExitCode)
}
