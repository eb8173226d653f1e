package state

import "fmt"

// Level is the newest feature level that this release understands. The first
// byte of a log entry is the level that its form belongs to.
//
// The state has a level of its own, which every node understands. No
// command above it is proposed, so that nodes of two releases can run together.
// It begins at firstLevel, and a leader raises it with a KindLevel.
const Level = 1

// firstLevel is the level of a state without any KindLevel. Every release
// understands its commands.
const firstLevel = 1

// level returns the feature level that the form of k's commands belongs to. A
// release that changes a form, or adds a kind, raises Level and returns it here.
func (k Kind) level() byte { return 1 }

// Level returns the feature level that every node of the cluster understands.
func (f *FSM) Level() byte { return byte(f.level.Load()) }

// raise takes over a level from a command or a snapshot.
func (f *FSM) raise(level byte) { f.level.Store(max(f.level.Load(), uint32(level))) }

// checkLevel returns an error if this release does not understand a level that
// the cluster has.
func (f *FSM) checkLevel(level byte) error {
	if level > f.understands {
		return fmt.Errorf("the cluster is at feature level %d and this release understands up to %d: run the release of the other nodes, or a newer one",
			level, f.understands)
	}
	return nil
}
