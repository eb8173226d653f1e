package state

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

var (
	ours   = [16]byte{1, 2, 3}
	theirs = [16]byte{1, 2, 4}
)

func configuration(index uint64, extensions []byte) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Type: raft.LogConfiguration, Extensions: extensions}
}

// founded is the state after the first entry of a cluster.
func founded(t *testing.T, incarnation [16]byte) *FSM {
	f := New()
	f.Apply(configuration(1, FoundingExtensions(incarnation)))
	require.NoError(t, f.Failed())
	require.EqualValues(t, 1, f.Applied())
	return f
}

func TestIncarnationIsKept(t *testing.T) {
	f := founded(t, ours)
	require.Equal(t, ours, f.Incarnation())
	f.Apply(configuration(2, nil))
	f.Apply(configuration(3, FoundingExtensions(ours)))
	require.NoError(t, f.Failed())
	require.EqualValues(t, 3, f.Applied())
	require.Equal(t, ours, f.Incarnation())

	again := New()
	require.NoError(t, restore(again, encoded(t, f)))
	require.Equal(t, ours, again.Incarnation())
	again.Reset()
	require.Zero(t, again.Incarnation())
}

func TestAnotherIncarnationIsRefused(t *testing.T) {
	without := New()
	without.Apply(configuration(1, nil))
	require.Zero(t, without.Incarnation())
	for name, f := range map[string]*FSM{"of its own": founded(t, ours), "without any": without} {
		for what, extensions := range map[string][]byte{
			"another":   FoundingExtensions(theirs),
			"malformed": FoundingExtensions(ours)[:20+15],
			"zero":      FoundingExtensions([16]byte{}),
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				had := encoded(t, f)
				g := New()
				require.NoError(t, restore(g, had))
				var broken error
				g.OnBroken = func(err error) { broken = err }
				g.Apply(configuration(2, extensions))
				require.ErrorContains(t, broken, "log entry 2: ")
				require.ErrorContains(t, broken, "incarnation")
				require.EqualValues(t, 1, g.Applied())
				require.Equal(t, f.Incarnation(), g.Incarnation())
			})
		}
	}
}

func TestSnapshotOfAnotherIncarnation(t *testing.T) {
	f := founded(t, ours)
	var broken error
	f.OnBroken = func(err error) { broken = err }
	err := restore(f, encoded(t, founded(t, theirs)))
	require.ErrorContains(t, err, "snapshot: incarnation 01020400")
	require.Equal(t, err, broken)
	require.Equal(t, ours, f.Incarnation())
	require.NoError(t, restore(New(), encoded(t, founded(t, theirs))), "an empty state takes any")
}

func TestExtensions(t *testing.T) {
	for _, none := range [][]byte{nil, []byte("something else"), []byte(incarnationMark[:5])} {
		got, err := ReadExtensions(none)
		require.NoError(t, err)
		require.Zero(t, got)
	}
	got, err := ReadExtensions(FoundingExtensions(ours))
	require.NoError(t, err)
	require.Equal(t, ours, got)
	require.Equal(t, "holdfast-incarnation\x00", string(FoundingExtensions(ours)[:21]))
}
