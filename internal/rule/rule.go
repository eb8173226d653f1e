// Package rule lets tests switch single safety rules off, to show that the
// conformance suite catches their absence. Nothing outside tests calls Off.
package rule

import "sync/atomic"

// Rule is one rule (or one detail of a rule) of docs/protocol.md that can be
// switched off.
type Rule uint8

// The rules with a switch. Each is consulted with On where it is implemented.
const (
	P1FromSending     Rule = iota // From counts from the sending, not the reply
	P3Deadline                    // the deadline ends a Session without proof
	P4Final                       // a late answer revives nothing
	P5JudgeLater                  // an answer judges only Holds made before its sending
	P6FalseFirst                  // Valid is false before Release is sent
	P7Marker                      // copies exclude each other by the marker
	P8ReadBack                    // the marker's revision comes from a read after its creation
	P9MarkerFirst                 // the marker is judged before other conditions
	P10EveryCopy                  // a conflict is a no only when every copy said so
	P11NoNeedsMarker              // a definite no needs the marker won
	P12SlotBusy                   // a slot with an unclear attempt serves only its settling
	P13Resend                     // only what P7 makes exclusive is re-sent
	P14DeadLease                  // a put bound to a dead lease is ErrLost
	P16LateYes                    // a yes that settles after Acquire returned is released
	P17OneAttempt                 // no new Acquire while one of the key is unclear
	P18OwnIncarnation             // Release conditions on Created
	P19FirstPublish               // only the first Publish takes a key over
	P20BothLeases                 // while a move is unsettled both leases are renewed
	OwnershipChecked              // a renewal checks the held keys
	AcquireCtxFree                // the acquire context does not govern the Hold
	count
)

var off [count]atomic.Bool

// On reports whether r is in force.
func On(r Rule) bool { return !off[r].Load() }

// Off switches r off until restore is called. For tests only; tests that use
// it must not run in parallel with others.
func Off(r Rule) (restore func()) {
	off[r].Store(true)
	return func() { off[r].Store(false) }
}
