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

// A Harness gives the suite access to the backend under test. Name and New are required.
type Harness struct {
	// Name is the backend's name in the table, such as "raftstore".
	Name string

	// Virtual runs every case in a testing/synctest bubble of its own, where
	// time passes at once. It requires a store without real sockets and disks, whose
	// goroutines are all started inside New.
	Virtual bool

	// New is called once at the start of every case, inside its bubble if Virtual is set,
	// and returns the store for the case. A cluster that is slow to start should be started
	// once, before Run, and New then only returns its Store. Cases may share a cluster,
	// because every case has a key prefix of its own. New must end with tb.Cleanup all that
	// it starts.
	New func(tb testing.TB) Store

	// Timing is that of the suite's sessions and calls. A short Timing makes a short run,
	// because nearly every bound follows from it. Zero means a TTL of 2 s, a LoopWait of
	// 500 ms and a RetryTimeout of 700 ms.
	Timing dcs.Timing

	// NotApplicable names the cases that do not apply to this backend, each with the
	// reason. "Area/*" names all cases of an area. They are printed and counted. Any other
	// skip is a failure, and so is a name that no case has. [Without] returns the cases
	// that need a missing hook.
	NotApplicable map[string]string

	// Ours lists substrings of the stacks of goroutines that belong to a cluster that
	// several cases share. The search for leaked goroutines ignores these.
	Ours []string
}

// A Store gives one case access to the store. Open is required. The other fields are hooks
// that some cases need. A case that can check nothing without a missing hook fails, unless
// NotApplicable names the case. A case that can check a part runs, and its result names the
// missing hook.
type Store struct {
	// Open returns a new client, which must be independent of every other one, with its own
	// connections and bookkeeping. The suite closes it.
	Open func(tb testing.TB) dcs.Backend

	// OpenAlone returns a client that Close really ends, with all its resources, if Open
	// only lends a shared one (a node of an embedded store). Nil means Open.
	OpenAlone func(tb testing.TB) dcs.Backend

	// OpenWith is Open with settings of the case, such as another timing, or faults that
	// are in force before the client is open. The fault cases need it. Nil means Open,
	// with the settings of the harness.
	OpenWith func(tb testing.TB, o Opening) (dcs.Backend, error)

	// URL returns the URL with which [dcs.Open] opens a client of the same tree as that of
	// OpenWith's clients (of Open's, without OpenWith), in this process and, for
	// Holder/PausedPastTTL, in a child process. The child process is the test binary
	// itself, whose TestMain must call [Process] first. The suite opens one client at a
	// time by URL.
	URL func(tb testing.TB) string

	// Cluster controls the servers, for the fault cases.
	Cluster *Cluster

	// Requests returns the number of requests that the client b has sent to the store's
	// servers so far, including probes.
	Requests func(b dcs.Backend) int64

	// Inject injects a fault between the client b and the store until lift is called.
	// Several faults may be in force at once, and all that match must apply.
	//
	// A message that the store pushes (an event of a watch, a notification) answers no
	// request of the client. It must be treated as one more copy of a [Request] named
	// Wait, which is sent when the message arrives. HoldRequest and HoldAnswer hold the
	// message and the later ones back until lift, in their order. LoseRequest and
	// LoseAnswer drop it, and the connection or stream stays silent from then on, as after
	// a loss in the network. Repeat has no effect on it.
	Inject func(b dcs.Backend, f Fault) (lift func())

	// DropBookkeeping removes the bookkeeping keys that clients keep in the store (attempt
	// markers), as the end of their lease would.
	DropBookkeeping func(tb testing.TB)

	// LimitTTL makes the store grant a TTL of at most limit, and renew every lease for at
	// most that, until lift. Renewals that are sent after LimitTTL has returned must
	// report the limited TTL. The limit is at least Caps.MinTTL.
	LimitTTL func(tb testing.TB, limit time.Duration) (lift func())

	// Sockets returns the keepalive settings that are in force on b's
	// connections, dialled and accepted, as read back from the sockets.
	Sockets func(b dcs.Backend) []Socket

	// Secure opens a client of a store that demands credentials, with those that creds
	// selects. log must receive the client's whole log. An error means that the opening
	// was refused. The store is usually a separate small cluster.
	Secure func(tb testing.TB, creds Credentials, log *slog.Logger) (dcs.Backend, error)
}

// A Fault changes the handling of some of a client's requests.
type Fault struct {
	// Do is the kind of the fault.
	Do Verb
	// When selects the requests. Nil means all. It is called once for every copy of every
	// request, in the order in which they are sent. It must not block and must not call
	// the store.
	When func(Request) bool
	// Times ends the fault after so many requests. Zero means that only lift ends it.
	// Requests that are held back stay so until lift.
	Times int
}

// A Request is one copy of one request that a client sends.
type Request struct {
	// Op is the method for which the request is sent: Get, Snapshot, Wait, Commit, Grant,
	// Renew or Revoke. A request that the backend sends for itself is one of
	//
	//   - Probe: checks whether a server answers, or reads its limits or the list of
	//     servers, and changes nothing;
	//   - Read: reads in the course of a Commit;
	//   - Login: presents credentials;
	//   - Mark: makes the marker of an attempt;
	//   - Settle: wins the marker of an attempt.
	//
	// Cases select requests by these names. A Mark or Settle that is named Commit, for
	// example, makes the Reply cases lose the wrong request. A backend over package
	// attempt recognises them: without writes in attempt.Request.Txn a request is a
	// Mark if its Marker has Create set, and else a Settle. Any other request must have
	// another name. The suite counts it as a write.
	Op string
	// Keys are the keys that the request writes or reads, as far as the transport knows
	// them. Those of a Commit and of a Renew must be complete, because cases select them
	// by key. They may include bookkeeping keys.
	Keys []string
}

// Touches reports whether r writes or reads key.
func (r Request) Touches(key string) bool { return slices.Contains(r.Keys, key) }

// Verb is the kind of a [Fault].
type Verb uint8

// The verbs.
const (
	// Pass does nothing, for a When that only observes.
	Pass Verb = iota
	// HoldRequest holds the request back until the fault is lifted. It must arrive then,
	// even if its sender has given it up.
	HoldRequest
	// HoldAnswer passes the request on and holds the answer back until the fault is
	// lifted.
	HoldAnswer
	// LoseRequest drops the request. The store never receives it, and its sender gets no
	// answer.
	LoseRequest
	// LoseAnswer passes the request on and drops its answer.
	LoseAnswer
	// Repeat makes the request twice in a row and returns the second answer, like a proxy
	// or a client library that retries by itself.
	Repeat
)

// Credentials select the client that [Store.Secure] must open.
type Credentials string

// The clients of the Auth and TLS cases.
const (
	// Good is a client with correct credentials.
	Good Credentials = "good"
	// UnknownCA has a certificate of another authority, or trusts another one.
	UnknownCA Credentials = "certificate of an unknown authority"
	// WrongHost connects to a server whose certificate names another host.
	WrongHost Credentials = "certificate for another host"
	// ExpiredCert has an expired certificate, or connects to a server with one.
	ExpiredCert Credentials = "expired certificate"
	// NoCert has no certificate where one is demanded.
	NoCert Credentials = "no certificate"
	// WrongPassword has the right name and a wrong password or token.
	WrongPassword Credentials = "wrong password"
	// MissingRight is known, but may not write the suite's keys.
	MissingRight Credentials = "missing right"
	// ShortToken has a token that expires, or is made to expire, within one TTL, and that
	// the client can renew by itself.
	ShortToken Credentials = "token that expires" //nolint:gosec // G101: the name of a case's client
)

// A Socket has the keepalive settings of one TCP connection.
type Socket struct {
	// Side is "dialled" or "accepted".
	Side string
	// Idle, Interval and UserTimeout are as reported by the socket. A UserTimeout of zero
	// means that the system has none.
	Idle, Interval, UserTimeout time.Duration
	// Count is the number of probes.
	Count int
	// Fault names the values outside the system's limits, or is empty.
	Fault string
}

var defaultTiming = dcs.Timing{TTL: 2 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 700 * time.Millisecond}

// slowProfile reports whether the long counts are selected.
func slowProfile() bool { return os.Getenv("HOLDFAST_PROFILE") == "slow" }

func profileName() string {
	if slowProfile() {
		return "slow"
	}
	return "fast"
}

// notApplicable returns the declared reason why the case does not apply.
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
