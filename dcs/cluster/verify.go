package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Identity is the answer of a member that is asked for its identity.
type Identity struct {
	Scope    string `json:"scope"`
	Name     string `json:"name"`
	Instance string `json:"instance"`
	State    string `json:"state,omitempty"`
	Role     string `json:"role,omitempty"`
	Position int64  `json:"position,omitempty"`
	Timeline int64  `json:"timeline,omitempty"`
}

// Asker asks the member at an APIURL for its identity. It must return by the context's
// deadline. Package clusterhttp has one.
type Asker interface {
	Ask(ctx context.Context, apiURL string) (Identity, error)
}

// FindingKind is a fault of a member's record.
type FindingKind uint8

const (
	// Unreachable says that the member did not answer.
	Unreachable FindingKind = iota
	// WrongMember says that another member, or another process of that name,
	// answered at the member's address.
	WrongMember
	// Itself says that the address of another member reaches the member that asks:
	// a loopback address, or a virtual one that it has at the moment.
	Itself
	// SharedAddress says that two members have published one address, or that one
	// process answers for both.
	SharedAddress
	// OtherScope says that a member of another cluster answered.
	OtherScope
	// PositionDiffers says that the stored position is not the live one. That is
	// usual while data is written, and no reason against the member.
	PositionDiffers
)

// String returns the kind in words.
func (k FindingKind) String() string {
	switch k {
	case Unreachable:
		return "unreachable"
	case WrongMember:
		return "wrong member"
	case Itself:
		return "reaches the asking member itself"
	case SharedAddress:
		return "shared address"
	case OtherScope:
		return "other scope"
	default:
		return "position differs"
	}
}

// Finding is one fault of a member's record.
type Finding struct {
	Member string
	Kind   FindingKind
	// Detail describes the fault, without secrets. It is cut where a member has sent
	// a long text.
	Detail string
	// Stored and Live are the positions, for PositionDiffers.
	Stored, Live int64
}

// Disqualifies reports whether the member must not lead on account of it.
func (f Finding) Disqualifies() bool { return f.Kind != PositionDiffers }

// String returns the finding in one line.
func (f Finding) String() string { return fmt.Sprintf("member %q: %v: %s", f.Member, f.Kind, f.Detail) }

// Verify asks every member of v at its published address for its identity, all at
// the same time, and returns the records that do not fit, sorted by member. self is
// the identity of the member that asks; it is asked at its own address too. ctx
// bounds the whole: a member that has not answered by then is Unreachable, also
// where asker ignores its context.
func Verify(ctx context.Context, v *View, self Identity, asker Asker) []Finding {
	type answer struct {
		i   int
		id  Identity
		err error
	}
	answers := make(chan answer, len(v.Members)) // a late answer blocks no goroutine
	open := map[int]bool{}
	var found []Finding
	for i, m := range v.Members {
		if m.APIURL == "" {
			found = append(found, Finding{Member: m.Name, Kind: Unreachable, Detail: "the record has no api_url"})
			continue
		}
		open[i] = true
		go func() { // ends with its Ask
			id, err := asker.Ask(ctx, m.APIURL)
			answers <- answer{i, id, err}
		}()
	}
	ids := map[string][]string{} // members by the process that answered
	for len(open) > 0 {
		select {
		case a := <-answers:
			delete(open, a.i)
			m := v.Members[a.i]
			if a.err != nil {
				found = append(found, Finding{Member: m.Name, Kind: Unreachable, Detail: fmt.Sprintf("%.300s", a.err.Error())})
				continue
			}
			found = append(found, judge(v, m, self, a.id)...)
			ids[a.id.Instance] = append(ids[a.id.Instance], m.Name)
		case <-ctx.Done():
			for i := range open {
				found = append(found, Finding{Member: v.Members[i].Name, Kind: Unreachable, Detail: "no answer in time: " + ctx.Err().Error()})
			}
			open = nil
		}
	}
	found = append(found, shared(v, ids)...)
	slices.SortFunc(found, func(a, b Finding) int {
		if c := strings.Compare(a.Member, b.Member); c != 0 {
			return c
		}
		return int(a.Kind) - int(b.Kind)
	})
	return found
}

// judge compares the record m with the identity that answered at its address.
func judge(v *View, m Member, self, id Identity) []Finding {
	finding := func(k FindingKind, format string, args ...any) []Finding {
		return []Finding{{Member: m.Name, Kind: k, Detail: fmt.Sprintf(format, args...)}}
	}
	switch {
	case id.Scope != v.Scope:
		return finding(OtherScope, "a member %.128q of cluster %.128q answered", id.Name, id.Scope)
	case m.Name == self.Name && id.Instance != self.Instance:
		return finding(WrongMember, "the own address reaches member %.128q, instance %.128q", id.Name, id.Instance)
	case m.Name != self.Name && id.Instance == self.Instance && self.Instance != "":
		return finding(Itself, "the address reaches member %q, which asks", self.Name)
	case id.Name != m.Name:
		return finding(WrongMember, "member %.128q answered", id.Name)
	case m.Instance != "" && id.Instance != m.Instance:
		return finding(WrongMember, "instance %.128q answered, the record is of instance %.128q", id.Instance, m.Instance)
	case m.Position != id.Position:
		f := finding(PositionDiffers, "stored %d, live %d", m.Position, id.Position)
		f[0].Stored, f[0].Live = m.Position, id.Position
		return f
	}
	return nil
}

// shared finds members that have one address or are one process.
func shared(v *View, ids map[string][]string) []Finding {
	byURL := map[string][]string{}
	for _, m := range v.Members {
		if m.APIURL != "" {
			url := strings.TrimSuffix(strings.ToLower(m.APIURL), "/")
			byURL[url] = append(byURL[url], m.Name)
		}
	}
	with := map[string]map[string]bool{}
	for instance, group := range ids {
		if instance != "" {
			note(with, group)
		}
	}
	for _, group := range byURL {
		note(with, group)
	}
	var found []Finding
	for name, others := range with {
		var list []string
		for other := range others {
			list = append(list, other)
		}
		slices.Sort(list)
		found = append(found, Finding{Member: name, Kind: SharedAddress, Detail: "also that of " + strings.Join(list, ", ")})
	}
	return found
}

// note records that the members of group share an address.
func note(with map[string]map[string]bool, group []string) {
	for _, a := range group {
		for _, b := range group {
			if a == b {
				continue
			}
			if with[a] == nil {
				with[a] = map[string]bool{}
			}
			with[a][b] = true
		}
	}
}
