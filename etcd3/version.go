package etcd3

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// A defect is a defect of some etcd releases that concerns this package.
type defect struct {
	issue int // of github.com/etcd-io/etcd
	// fixed has the first patch release without the defect, and since the first one
	// with it, for each minor version of etcd 3. Every release before fixed has the
	// defect if since does not list its minor version. A minor version that fixed does
	// not list has the defect if all listed ones are newer and since is empty.
	fixed, since map[int]int
	effect       string
	// noProgress means that the answers to progress requests cannot be used.
	noProgress bool
}

// defects are the known defects.
var defects = []defect{
	{
		issue: 13766, fixed: map[int]int{5: 3}, since: map[int]int{5: 0},
		effect: "members that are killed under load can have different data after their restart",
	},
	{
		issue: 14254, fixed: map[int]int{4: 20, 5: 7},
		effect: "a full store also refuses deletions and reads of several keys, so that renewals fail and locks are not released",
	},
	{
		issue: 15220, fixed: map[int]int{4: 25, 5: 8}, noProgress: true,
		effect: "the answer to a progress request of a watch can overtake events; Holdfast reads the tree instead",
	},
	{
		issue: 17557, fixed: map[int]int{4: 31, 5: 13}, since: map[int]int{4: 25, 5: 8}, noProgress: true,
		effect: "an idle watch does not answer progress requests; Holdfast reads the tree instead",
	},
	{
		issue: 15247, fixed: map[int]int{4: 31, 5: 13},
		effect: "a leader that hung revokes leases that were renewed at its successor, so that a lock can be taken before the deadline of its holder",
	},
	{
		issue: 20547, fixed: map[int]int{4: 38, 5: 23, 6: 5},
		effect: "the renewal of a lease that is being revoked can be confirmed, so that a lock can be taken before the deadline of its holder",
	},
	{
		issue: 20418, fixed: map[int]int{4: 42, 5: 28, 6: 9},
		effect: "a member that was paused can answer a linearizable read with old data, so that the renewal which depends on the read is confirmed wrongly",
	},
}

// in reports whether release 3.minor.patch has the defect.
func (d defect) in(minor, patch int) bool {
	if fixed, listed := d.fixed[minor]; listed {
		return patch < fixed && patch >= d.since[minor]
	}
	for listed := range d.fixed {
		if listed < minor {
			return false
		}
	}
	return len(d.since) == 0
}

// defectsOf returns the defects of a server's version, like "3.5.7", and whether the
// version could be parsed. A pre-release counts as its release.
func defectsOf(version string) ([]defect, bool) {
	version, _, _ = strings.Cut(version, "-")
	version, _, _ = strings.Cut(version, "+")
	parts := strings.Split(version, ".")
	if len(parts) != 3 {
		return nil, false
	}
	var n [3]int
	for i, part := range parts {
		var err error
		if n[i], err = strconv.Atoi(part); err != nil {
			return nil, false
		}
	}
	if n[0] != 3 {
		return nil, n[0] > 3
	}
	var out []defect
	for _, d := range defects {
		if d.in(n[1], n[2]) {
			out = append(out, d)
		}
	}
	return out, true
}

// status returns the status of a member. It records the version, and logs its defects.
func (c *conn) status(ctx context.Context) (*pb.StatusResponse, error) {
	s, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.StatusResponse, error) {
		return c.state.Status(ctx, &pb.StatusRequest{}, o...)
	})
	if err != nil {
		return nil, err
	}
	c.b.warn(c.addr, s.Version)
	c.version.Store(&s.Version)
	return s, c.b.seen(c, s.Header)
}

// warn logs the defects of a server's version once for each address and version.
func (b *Backend) warn(addr, version string) {
	known, _ := defectsOf(version)
	if len(known) == 0 {
		return
	}
	b.mu.Lock()
	done := b.warned[addr] == version
	maps.DeleteFunc(b.warned, func(other, _ string) bool { return !b.pool.Knows(other) })
	b.warned[addr] = version
	b.mu.Unlock()
	if done {
		return
	}
	list := make([]string, len(known))
	for i, d := range known {
		list[i] = fmt.Sprintf("%s (https://github.com/etcd-io/etcd/issues/%d)", d.effect, d.issue)
	}
	b.c.Logger.Warn("etcd server has known defects: upgrade it", "endpoint", addr, "version", version, "defects", strings.Join(list, "; "), "fixed_in", fixedIn(known))
}

// fixedIn returns the first releases that have none of the defects.
func fixedIn(known []defect) string {
	releases := map[int]int{}
	for _, d := range known {
		for minor, patch := range d.fixed {
			releases[minor] = max(releases[minor], patch)
		}
	}
	var out []string
	for _, minor := range slices.Sorted(maps.Keys(releases)) {
		out = append(out, fmt.Sprintf("3.%d.%d", minor, releases[minor]))
	}
	return strings.Join(out, ", ")
}

// answersProgress reports whether the member's answers to progress requests can be
// used. Those of an unknown version cannot.
func (c *conn) answersProgress(ctx context.Context) bool {
	version := c.version.Load()
	if version == nil {
		s, err := c.status(ctx)
		if err != nil {
			return false
		}
		version = &s.Version
	}
	known, ok := defectsOf(*version)
	for _, d := range known {
		ok = ok && !d.noProgress
	}
	return ok
}
