package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The states of a member that this package gives a meaning. Others are kept as
// they are.
const (
	StateRunning = "running"
	StateFailed  = "failed" // the service could not be started or promoted
)

// The roles of a member.
const (
	RolePrimary = "primary"
	RoleReplica = "replica"

	// roleMaster is the name of RolePrimary in Patroni before 4.0.
	roleMaster = "master"
)

// Member is the record that a member of a cluster publishes about itself. Its
// fields are those of Patroni's, Instance apart.
type Member struct {
	// Name is the last part of the record's key.
	Name string
	// Instance is a random id of the running process. It shows that an address
	// reaches another process than the one that published it. Patroni's records
	// have none.
	Instance string `json:"instance"`
	// APIURL is where the member answers questions about itself.
	APIURL string `json:"api_url"`
	// ConnURL is where clients reach the service.
	ConnURL string `json:"conn_url"`
	// State and Role are those of the service, as in StateRunning and RoleReplica.
	State string `json:"state"`
	Role  string `json:"role"`
	// Version is the version of the program that manages the service.
	Version string `json:"version"`
	// Position is how much of the service's data the member has: the LSN of
	// PostgreSQL. It is not newer than the record; see [Publisher].
	Position int64 `json:"xlog_location"`
	// Timeline is the history that Position belongs to, 0 if unknown.
	Timeline int64 `json:"timeline"`
	// Pause reports that the member has seen that the cluster is paused.
	Pause bool `json:"pause"`
	// Tags are settings of the member for the others.
	Tags map[string]json.RawMessage `json:"tags"`
	// Extra are the other fields.
	Extra Extra

	// Lease is the lease that the record is bound to; Created and Modified are
	// the revisions of its key.
	Lease             dcs.LeaseID
	Created, Modified dcs.Revision
}

// NoFailover reports whether the member's tags exclude it from leading: nofailover
// is true, or failover_priority is not more than 0.
func (m Member) NoFailover() bool {
	var excluded flag
	if raw, ok := m.Tags["nofailover"]; ok && json.Unmarshal(raw, &excluded) == nil {
		return bool(excluded)
	}
	var priority int
	raw, ok := m.Tags["failover_priority"]
	return ok && json.Unmarshal(raw, &priority) == nil && priority <= 0
}

// Primary reports whether the member's role is that of the primary.
func (m Member) Primary() bool { return m.Role == RolePrimary || m.Role == roleMaster }

// Encode returns the value of the member's key, or an ErrInvalid that lists
// every fault of m.
func (m Member) Encode() ([]byte, error) {
	faults := []error{checkName(m.Name), checkURL("api_url", m.APIURL, false)}
	if m.Position < 0 || m.Timeline < 0 {
		faults = append(faults, fmt.Errorf("xlog_location %d and timeline %d must not be negative", m.Position, m.Timeline))
	}
	for name, raw := range m.Tags {
		if !json.Valid(raw) {
			faults = append(faults, fmt.Errorf("tag %q is not JSON", name))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, invalid("Member", err)
	}
	return encodeObject(m, m.Extra)
}

// decodeMember decodes the record of the member called name. A value that is no
// record gives a member with nothing but its name.
func decodeMember(name string, e dcs.Entry) (Member, []error) {
	m := Member{Lease: e.Lease, Created: e.Created, Modified: e.Modified}
	var faults []error
	if conn, ok := strings.CutPrefix(string(e.Value), "postgres"); ok {
		m.ConnURL, m.APIURL = splitConnURL("postgres" + conn)
	} else {
		var err error
		if m.Extra, faults, err = decodeObject(e.Value, &m); err != nil {
			faults = append(faults, err)
		}
	}
	m.Name = name
	return m, faults
}

// splitConnURL takes the API's address out of the record of an old Patroni, which
// is an address of the service with the API's as its application_name.
func splitConnURL(raw string) (conn, api string) {
	u, err := url.Parse(raw)
	if err != nil {
		return raw, ""
	}
	api = u.Query().Get("application_name")
	u.RawQuery = ""
	return u.String(), api
}

// checkURL returns an error unless raw is an HTTP URL, or empty where it need not
// be set.
func checkURL(field, raw string, required bool) error {
	if raw == "" && !required {
		return nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return fmt.Errorf("%s is no URL: use one like http://10.0.0.1:8008/", field) // a URL can hold a password
	case u.User != nil:
		return fmt.Errorf("%s %q has a user: every reader of the cluster sees it", field, u.Redacted())
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return fmt.Errorf("%s %q is no HTTP URL: use one like http://10.0.0.1:8008/", field, u.Redacted())
	}
	return nil
}

// invalid returns err as an ErrInvalid about a record.
func invalid(record string, err error) error {
	return &dcs.Error{Op: record, Kind: dcs.ErrInvalid, Err: errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))}
}
