package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Failsafe is the list of the members that must agree before a leader goes on in
// an outage of the store. A list that is stored binds every member, also where
// the configuration does not enable the mode.
type Failsafe struct {
	// Members has the API's address of each member by its name.
	Members map[string]string
	// TTL is the TTL of the leader that wrote the list; 0 where it is not known,
	// as in a list that Patroni wrote.
	TTL time.Duration

	unreadable bool
}

// Empty reports whether no list is stored. A list that is not readable is not
// empty, and nobody is in it.
func (f Failsafe) Empty() bool { return len(f.Members) == 0 && !f.unreadable }

// Contains reports whether the member called name is in the list.
func (f Failsafe) Contains(name string) bool {
	_, ok := f.Members[name]
	return ok
}

// ttlField is how the TTL is stored: in the fragment of each address, which is
// never sent and which Patroni cuts off. A field of its own would be a member to
// Patroni.
const ttlField = "ttl="

func (Failsafe) key() string      { return FailsafeKey }
func (Failsafe) leaderOnly() bool { return true }

func (f Failsafe) encode() ([]byte, error) {
	var faults []error
	if f.TTL < 0 || len(f.Members) > 0 && f.TTL == 0 {
		faults = append(faults, fmt.Errorf("TTL %v must be more than 0", f.TTL))
	}
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(f.Members)) {
		api := f.Members[name]
		if err := errors.Join(checkName(name), checkURL("api_url", api, true)); err != nil {
			faults = append(faults, fmt.Errorf("member %q: %w", name, err))
			continue
		}
		u, _ := url.Parse(api) // checked above
		u.Fragment = ttlField + f.TTL.String()
		out[name] = u.String()
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return encode(out)
}

// decodeFailsafe decodes a list. If it is not readable in whole, nobody is in it,
// because a leader may be asking members that cannot be read.
func decodeFailsafe(value []byte) (Failsafe, error) {
	var all map[string]string
	if err := json.Unmarshal(value, &all); err != nil || all == nil {
		return Failsafe{unreadable: true}, errors.New("the value is not a JSON object of addresses")
	}
	f := Failsafe{Members: map[string]string{}}
	for name, raw := range all {
		api, fragment, _ := strings.Cut(raw, "#")
		if err := errors.Join(checkName(name), checkURL("api_url", api, true)); err != nil {
			return Failsafe{unreadable: true}, fmt.Errorf("member %q: %w", name, err)
		}
		if text, ok := strings.CutPrefix(fragment, ttlField); ok {
			ttl, err := time.ParseDuration(text)
			if err != nil || ttl <= 0 {
				return Failsafe{unreadable: true}, fmt.Errorf("member %q: TTL %q is not usable", name, text)
			}
			f.TTL = max(f.TTL, ttl)
		}
		f.Members[name] = api
	}
	return f, nil
}
