package conformance

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Harness says how to reach the backend under test. Name and New are required.
type Harness struct {
	// Name is the backend's name in the table, such as "raftstore".
	Name string

	// Virtual runs every case in a testing/synctest bubble of its own, where
	// time passes at once. Only a store without real sockets and disks can do
	// that; everything it needs must then be started inside New.
	Virtual bool

	// New is called once at the start of every case, inside its bubble when
	// Virtual, and returns the store that the case talks to. A cluster that is
	// slow to start is started once, before Run; New then only says how to
	// reach it. Every case keeps to keys under a first part of its own, so
	// cases may share a cluster. Whatever New starts ends with tb.Cleanup.
	New func(tb testing.TB) Store

	// Timing is what the suite's sessions and calls use. Short ones make a
	// short run: nearly every bound follows from it. Zero means a TTL of 2 s,
	// a LoopWait of 500 ms and a RetryTimeout of 700 ms.
	Timing dcs.Timing

	// NotApplicable names the cases that this backend cannot have, each with
	// the reason in words; "Area/*" names all of an area. They are printed and
	// counted. Any other skip is a failure, and so is a name that no case has.
	NotApplicable map[string]string

	// Ours lists substrings of goroutine stacks that belong to a cluster which
	// several cases share (its connections come and go), so that a case is
	// not blamed for them.
	Ours []string
}

// Store is the store as one case sees it. Open is required; the others are
// hooks that some cases need. A case that can check nothing without a hook
// fails where the hook is missing, unless NotApplicable names the case. A case
// that can check a part runs, and its result names the missing hook.
type Store struct {
	// Open returns a new client, independent of every other one: with its own
	// connections and bookkeeping. The suite closes it.
	Open func(tb testing.TB) dcs.Backend

	// OpenAlone returns a client that Close really ends, and whatever it
	// needs with it, where Open only lends a shared one (an embedded store's
	// node). Nil means Open.
	OpenAlone func(tb testing.TB) dcs.Backend

	// OpenWith is Open with settings of the case's own, such as another
	// timing, or faults that are in force before the client is open. The fault
	// cases need it; nil means Open, with the harness's.
	OpenWith func(tb testing.TB, o Opening) (dcs.Backend, error)

	// URL returns the URL by which [dcs.Open] becomes a client of the same
	// tree as that of OpenWith's clients (of Open's, without OpenWith), in this
	// process and, for Holder/PausedPastTTL, in another one. That other
	// process is the test binary itself, whose TestMain must call [Process]
	// first. One client at a time is open by URL.
	URL func(tb testing.TB) string

	// Cluster is the servers, for the fault cases.
	Cluster *Cluster

	// Requests returns how many requests the client b has sent to the store's
	// servers so far, probes included.
	Requests func(b dcs.Backend) int64

	// Inject puts a fault between the client b and the store until lift is
	// called. Several may be in force at once; all that match are effective.
	Inject func(b dcs.Backend, f Fault) (lift func())

	// DropBookkeeping removes the bookkeeping keys that clients keep in the
	// store (attempt markers), as the end of a lease that they hang on does.
	DropBookkeeping func(tb testing.TB)

	// LimitTTL makes the store grant a TTL of at most limit, and renew every
	// lease for at most that, until lift. Renewals that are sent after LimitTTL
	// has returned must report the limited TTL. The limit is at least
	// Caps.MinTTL.
	LimitTTL func(tb testing.TB, limit time.Duration) (lift func())

	// Sockets returns the keepalive settings that are in force on b's
	// connections, dialled and accepted, as read back from the sockets.
	Sockets func(b dcs.Backend) []Socket

	// Secure opens a client of a store that demands credentials, as who says,
	// with everything it logs going to log. An error is the answer of an Open
	// that refuses. The store is usually a small cluster of its own.
	Secure func(tb testing.TB, who Credentials, log *slog.Logger) (dcs.Backend, error)
}

// Fault is what becomes of some of a client's requests.
type Fault struct {
	// Do is the verb.
	Do Verb
	// When picks the requests; nil means all. It is asked once for every copy
	// of every request, in the order of their sending; it must not block and
	// must not call the store.
	When func(Request) bool
	// Times ends the fault after so many requests; zero means only lift does.
	// What is held back stays so until lift.
	Times int
}

// Request is one copy of one request, as it leaves a client.
type Request struct {
	// Op is the method on whose behalf the request is sent: Get, Snapshot,
	// Wait, Commit, Grant, Renew or Revoke. A request that the backend sends
	// for itself is one of
	//
	//   - Probe: finds out whether a server answers, what it grants or which
	//     servers there are, and changes nothing;
	//   - Read: reads in the course of a Commit;
	//   - Login: presents credentials;
	//   - Mark: makes the marker of an attempt;
	//   - Settle: wins the marker of an attempt.
	//
	// Any other request has any other name. The suite takes it for a write.
	Op string
	// Keys are the keys it writes or reads, as far as the transport knows
	// them. Bookkeeping keys may be among them.
	Keys []string
}

// Touches reports whether r writes or reads key.
func (r Request) Touches(key string) bool { return slices.Contains(r.Keys, key) }

// Verb is what a [Fault] does.
type Verb uint8

// The verbs.
const (
	// Pass does nothing, for a When that only looks on.
	Pass Verb = iota
	// HoldRequest keeps the request on its way until the fault is lifted. It
	// arrives then, also after its sender has given it up.
	HoldRequest
	// HoldAnswer lets the request through and keeps the answer until the
	// fault is lifted.
	HoldAnswer
	// LoseRequest drops the request: the store never sees it, and its sender
	// hears nothing.
	LoseRequest
	// LoseAnswer lets the request through and drops its answer.
	LoseAnswer
	// Repeat does the request twice in a row and gives the second answer, as
	// a proxy or a client library does that tries again by itself.
	Repeat
)

// Credentials name the client that [Store.Secure] has to open.
type Credentials string

// The clients that the Auth and TLS cases ask for.
const (
	// Good is a client with everything right.
	Good Credentials = "good"
	// UnknownCA has a certificate of another authority, or trusts another one.
	UnknownCA Credentials = "certificate of an unknown authority"
	// WrongHost meets a server whose certificate names another host.
	WrongHost Credentials = "certificate for another host"
	// ExpiredCert has, or meets, a certificate that ran out.
	ExpiredCert Credentials = "expired certificate"
	// NoCert has no certificate where one is demanded.
	NoCert Credentials = "no certificate"
	// WrongPassword has the right name and a wrong password or token.
	WrongPassword Credentials = "wrong password"
	// MissingRight is known, but may not write the suite's keys.
	MissingRight Credentials = "missing right"
	// ShortToken has a token that expires, or is made to, within one TTL and
	// that the client can renew by itself.
	ShortToken Credentials = "token that expires" //nolint:gosec // G101: the name of a case's client
)

// Socket is what one TCP connection reports of its keepalive.
type Socket struct {
	// Side is "dialled" or "accepted".
	Side string
	// Idle, Interval and UserTimeout are as the socket reports them; a
	// UserTimeout of zero means that the system has none.
	Idle, Interval, UserTimeout time.Duration
	// Count is the number of probes.
	Count int
	// Fault says in words what is outside the system's limits, or is empty.
	Fault string
}

var defaultTiming = dcs.Timing{TTL: 2 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 700 * time.Millisecond}

// slowProfile reports whether the long counts are asked for.
func slowProfile() bool { return os.Getenv("HOLDFAST_PROFILE") == "slow" }

func profileName() string {
	if slowProfile() {
		return "slow"
	}
	return "fast"
}

// notApplicable returns the declared reason why the case is left out.
func (h Harness) notApplicable(name string) (string, bool) {
	if why, ok := h.NotApplicable[name]; ok {
		return why, true
	}
	area, _, _ := strings.Cut(name, "/")
	why, ok := h.NotApplicable[area+"/*"]
	return why, ok
}

// check returns every fault of the harness itself.
func (h Harness) check() []string {
	var faults []string
	if h.Name == "" {
		faults = append(faults, "the harness has no Name")
	}
	if h.New == nil {
		faults = append(faults, "the harness has no New")
	}
	known := map[string]bool{}
	for _, c := range table() {
		area, _, _ := strings.Cut(c.Name, "/")
		known[c.Name], known[area+"/*"] = true, true
	}
	for name, why := range h.NotApplicable {
		if !known[name] {
			faults = append(faults, fmt.Sprintf("NotApplicable names %q, which is no case of the suite", name))
		}
		if strings.TrimSpace(why) == "" {
			faults = append(faults, fmt.Sprintf("NotApplicable[%q] gives no reason", name))
		}
	}
	slices.Sort(faults)
	return faults
}

func (h Harness) timing() dcs.Timing {
	if h.Timing == (dcs.Timing{}) {
		return defaultTiming
	}
	return h.Timing
}
