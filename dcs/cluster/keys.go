package cluster

import (
	"fmt"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The keys of a cluster, below its scope. Members have a key each, see
// [MemberKey].
const (
	LeaderKey     = "leader"
	ConfigKey     = "config"
	InitializeKey = "initialize"
	FailoverKey   = "failover"
	SyncKey       = "sync"
	HistoryKey    = "history"
	StatusKey     = "status"
	FailsafeKey   = "failsafe"
	KeeperKey     = "keeper"

	membersDir = "members"
	// optimeKey has the leader's position where Patroni before 2.1 is a member.
	optimeKey = "optime/leader"
)

// Key returns the key named name of the cluster scope, as in Key("pg", LeaderKey).
func Key(scope, name string) string { return scope + "/" + name }

// MemberKey returns the key of a member's record. It is a member key in the sense
// of [dcs.CheckMemberKey].
func MemberKey(scope, member string) string { return Key(scope, membersDir+"/"+member) }

// CheckScope returns an ErrInvalid unless scope can be the name of a cluster: a
// key in the grammar of package dcs that leaves room for the keys below it and
// whose last part is not "members".
func CheckScope(scope string) error {
	err := dcs.CheckKey(scope)
	switch {
	case err != nil:
	case len(scope) > maxScope:
		err = fmt.Errorf("the scope has %d bytes: use at most %d", len(scope), maxScope)
	case dcs.CheckLockKey(Key(scope, LeaderKey)) != nil:
		err = fmt.Errorf("the scope's last part is %q, which makes every key below it a member key: use another name", membersDir)
	default:
		return nil
	}
	return &dcs.Error{Op: "CheckScope", Key: scope, Kind: dcs.ErrInvalid, Err: err}
}

const (
	// MaxName is the longest member name in bytes.
	MaxName = 128
	// maxScope leaves room for "/members/" and a name.
	maxScope = dcs.MaxKey - MaxName - len("/"+membersDir+"/")
)

// CheckName returns an ErrInvalid unless name can be the name of a member: one
// part of a key, of printable ASCII without slashes and commas, at most
// [MaxName] bytes, without spaces at its ends. A comma separates the names of
// [Sync].
func CheckName(name string) error {
	if err := checkName(name); err != nil {
		return &dcs.Error{Op: "CheckName", Kind: dcs.ErrInvalid, Err: err}
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the member name is empty: use 1 to %d bytes", MaxName)
	case len(name) > MaxName:
		return fmt.Errorf("the member name has %d bytes: use at most %d", len(name), MaxName)
	case name == "." || name == "..":
		return fmt.Errorf("the member name is %q: use another name", name)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("the member name %q begins or ends with a space: leave it out", name)
	}
	for i := range len(name) {
		if c := name[i]; c < 0x20 || c > 0x7e || c == '/' || c == ',' {
			return fmt.Errorf("byte %d of the member name is 0x%02x: use printable ASCII without slashes and commas", i, c)
		}
	}
	return nil
}
