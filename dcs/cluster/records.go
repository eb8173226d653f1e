package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Leader is the leader key.
type Leader struct {
	// Name is the member that holds the lock. It is empty where the value is no
	// member name: a member leads, and nothing is known of it.
	Name string
	// Token is the fencing token: the key's Created.
	Token dcs.Revision
	// Lease is the lease that the lock is bound to.
	Lease dcs.LeaseID
}

// Config is the configuration of a cluster. Fields that are zero are not set.
type Config struct {
	// TTL, LoopWait and RetryTimeout are the Timing, stored in seconds.
	TTL          time.Duration `json:"ttl"`
	LoopWait     time.Duration `json:"loop_wait"`
	RetryTimeout time.Duration `json:"retry_timeout"`
	// MaxLag is how far a member may be behind the last known position of the
	// leader and still lead.
	MaxLag int64 `json:"maximum_lag_on_failover"`
	// Pause suspends decisions: nobody acquires or is demoted for policy reasons.
	Pause bool `json:"pause"`
	// FailsafeMode lets a leader go on in an outage of the store while all members
	// agree.
	FailsafeMode bool `json:"failsafe_mode"`
	// Extra are all other settings.
	Extra Extra
}

// Timing returns the timing that c sets, for [dcs.Timing.WithDefaults].
func (c Config) Timing() dcs.Timing {
	return dcs.Timing{TTL: c.TTL, LoopWait: c.LoopWait, RetryTimeout: c.RetryTimeout}
}

func (Config) key() string      { return ConfigKey }
func (Config) leaderOnly() bool { return false }

func (c Config) encode() ([]byte, error) {
	var faults []error
	for name, d := range map[string]time.Duration{"ttl": c.TTL, "loop_wait": c.LoopWait, "retry_timeout": c.RetryTimeout} {
		if d < 0 {
			faults = append(faults, fmt.Errorf("%s %v is negative", name, d))
		}
	}
	if c.MaxLag < 0 {
		faults = append(faults, fmt.Errorf("maximum_lag_on_failover %d is negative", c.MaxLag))
	}
	if t := c.Timing(); len(faults) == 0 && t.TTL > 0 {
		faults = append(faults, t.Validate(dcs.Caps{}))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return encodeObject(c, c.Extra)
}

// Initialize is the identity of the data that the cluster's members share, empty
// before the first of them has made it.
type Initialize string

func (Initialize) key() string               { return InitializeKey }
func (Initialize) leaderOnly() bool          { return false }
func (i Initialize) encode() ([]byte, error) { return []byte(i), nil }

// Failover is a request that another member leads.
type Failover struct {
	// Leader is the member that is to give the lock up; empty for a failover
	// without a leader.
	Leader string `json:"leader"`
	// Candidate is the member that is to lead; empty for any.
	Candidate string `json:"member"`
	// At is when; zero for now.
	At time.Time `json:"scheduled_at"`
	// Token is the fencing token of the leader that has accepted the request, 0
	// before that.
	Token dcs.Revision `json:"token"`
	// Extra are the other fields.
	Extra Extra
}

func (Failover) key() string      { return FailoverKey }
func (Failover) leaderOnly() bool { return false }

func (f Failover) encode() ([]byte, error) {
	var faults []error
	for _, name := range []string{f.Leader, f.Candidate} {
		if name != "" {
			faults = append(faults, checkName(name))
		}
	}
	switch {
	case f.Leader == "" && f.Candidate == "":
		faults = append(faults, errors.New("neither the leader nor the candidate is named: name one, or write ClearFailover"))
	case f.Leader == f.Candidate:
		faults = append(faults, fmt.Errorf("leader and candidate are both %q: name another candidate", f.Candidate))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return encodeObject(f, f.Extra)
}

// decodeFailover decodes a request. One with a field that is not usable is
// refused as a whole: without its time it would be a request for now.
func decodeFailover(value []byte) (*Failover, error) {
	var f Failover
	extra, faults, err := decodeObject(value, &f)
	if err != nil && !json.Valid(value) && !strings.HasPrefix(strings.TrimSpace(string(value)), "{") {
		if f.Leader, f.Candidate, _ = strings.Cut(string(value), ":"); f.Leader == "" && f.Candidate == "" {
			return nil, nil
		}
		f.Leader, f.Candidate = strings.TrimSpace(f.Leader), strings.TrimSpace(f.Candidate)
		err = nil
	}
	if err = errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	if f.Leader == "" && f.Candidate == "" {
		return nil, nil
	}
	f.Extra = extra
	for _, name := range []string{f.Leader, f.Candidate} {
		if name != "" && checkName(name) != nil {
			return nil, checkName(name)
		}
	}
	return &f, nil
}

// Sync are the members that have everything that the leader has confirmed to its
// clients.
type Sync struct {
	Leader   string   `json:"leader"`
	Standbys []string `json:"sync_standby" stored:"commas"`
	// Quorum is how many of the others a standby must see before it leads.
	Quorum int `json:"quorum"`
	// Extra are the other fields.
	Extra Extra
}

func (Sync) key() string      { return SyncKey }
func (Sync) leaderOnly() bool { return true }

func (s Sync) encode() ([]byte, error) {
	var faults []error
	for _, name := range append(slices.Clone(s.Standbys), s.Leader) {
		if name != "" || len(s.Standbys) > 0 {
			faults = append(faults, checkName(name))
		}
	}
	if s.Quorum < 0 || s.Quorum > len(s.Standbys) {
		faults = append(faults, fmt.Errorf("quorum %d of %d standbys: use 0 to %d", s.Quorum, len(s.Standbys), len(s.Standbys)))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if len(s.Standbys) == 0 {
		s.Standbys = nil
	}
	return encodeObject(s, s.Extra)
}

// Status is the last report of the leader about its data.
type Status struct {
	// Position is the leader's position: the LSN of PostgreSQL.
	Position int64 `json:"optime"`
	// Slots and RetainSlots are Patroni's replication slots.
	Slots       map[string]int64 `json:"slots"`
	RetainSlots []string         `json:"retain_slots"`
	// Extra are the other fields.
	Extra Extra
}

func (Status) key() string      { return StatusKey }
func (Status) leaderOnly() bool { return true }

func (s Status) encode() ([]byte, error) {
	if s.Position < 0 {
		return nil, fmt.Errorf("optime %d is negative", s.Position)
	}
	return encodeObject(s, s.Extra)
}

// decodeStatus decodes a status, or the bare position that an old Patroni writes.
func decodeStatus(value []byte) (Status, []error) {
	var s Status
	if json.Unmarshal(value, &s.Position) == nil {
		return s, nil
	}
	extra, faults, err := decodeObject(value, &s)
	if err != nil {
		faults = append(faults, err)
	}
	s.Extra = extra
	return s, faults
}

// Keeper names the member that leads without a lock while the cluster is paused.
type Keeper struct {
	// Name is empty where the record is not readable, which means another member.
	Name     string       `json:"name"`
	Instance string       `json:"instance"`
	Token    dcs.Revision `json:"token"`
	// Extra are the other fields.
	Extra Extra
}

func (Keeper) key() string      { return KeeperKey }
func (Keeper) leaderOnly() bool { return true }

func (k Keeper) encode() ([]byte, error) {
	if err := checkName(k.Name); err != nil {
		return nil, err
	}
	if k.Instance == "" || k.Token == 0 {
		return nil, fmt.Errorf("instance %q and token %d must both be set", k.Instance, k.Token)
	}
	return encodeObject(k, k.Extra)
}

// decodeKeeper decodes a keeper. One that is not readable in whole names nobody.
func decodeKeeper(value []byte) (*Keeper, error) {
	var k Keeper
	extra, faults, err := decodeObject(value, &k)
	if err = errors.Join(append(faults, err)...); err == nil {
		err = checkName(k.Name)
	}
	if err != nil {
		return &Keeper{}, err
	}
	k.Extra = maps.Clone(extra)
	return &k, nil
}
