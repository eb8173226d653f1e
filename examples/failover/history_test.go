package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

func leading(member string, token uint64, at, deadline int64) event.Event {
	return event.Event{Event: event.Leading, Member: member, Token: token, Mono: at, DeadlineMono: deadline}
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		events []event.Event
		frozen uint64
		want   judgement
	}{
		"one after the other": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				{Event: event.Renewed, Member: "a", Token: 5, Mono: 150, DeadlineMono: 300},
				{Event: event.Released, Member: "a", Token: 5, Mono: 250},
				leading("b", 9, 251, 400),
			},
		},
		"a frozen holder reports late": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				leading("b", 9, 220, 400),
				{Event: event.Lost, Member: "a", Token: 5, Mono: 900, DeadlineMono: 200},
			},
			frozen: 5,
		},
		"a primary that stops late": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				leading("b", 9, 220, 400),
				{Event: event.Fenced, Member: "a", Token: 5, Mono: 210},
			},
			want: judgement{Late: 1},
		},
		"still valid when the next begins": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				leading("b", 9, 180, 400),
			},
			want: judgement{Overlaps: 1, Overlap: 20},
		},
		"events of two members in another order": {
			events: []event.Event{
				leading("b", 9, 180, 400),
				leading("a", 5, 100, 150),
				{Event: event.Renewed, Member: "a", Token: 5, Mono: 120, DeadlineMono: 210},
			},
			want: judgement{Overlaps: 1, Overlap: 30},
		},
		"one that outlasts its lock in failsafe mode": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				{Event: event.Renewed, Member: "a", Token: 5, Mono: 180, DeadlineMono: 400}, // all members accept it
				{Event: event.Retaken, Member: "a", Token: 5, NewToken: 8, Mono: 300},
				{Event: event.Lost, Member: "a", Token: 5, Mono: 390},
				leading("b", 9, 391, 500),
			},
		},
		"another one leads while all members accept the first": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				{Event: event.Renewed, Member: "a", Token: 5, Mono: 180, DeadlineMono: 400},
				leading("b", 9, 250, 500),
			},
			want: judgement{Overlaps: 1, Overlap: 150},
		},
		"one that stops after the members' acceptance has ended": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				{Event: event.Renewed, Member: "a", Token: 5, Mono: 180, DeadlineMono: 400},
				{Event: event.Lost, Member: "a", Token: 5, Mono: 401},
			},
			want: judgement{Late: 1},
		},
		"a token below the one of a lock that was taken again": {
			events: []event.Event{
				leading("a", 5, 100, 200),
				{Event: event.Retaken, Member: "a", Token: 5, NewToken: 9, Mono: 150},
				leading("b", 8, 250, 400),
			},
			want: judgement{Fell: 1},
		},
		"a token that falls": {
			events: []event.Event{leading("a", 9, 100, 110), leading("b", 5, 120, 130)},
			want:   judgement{Fell: 1},
		},
		"a token announced twice": {
			events: []event.Event{leading("a", 9, 100, 110), leading("a", 9, 120, 130)},
			want:   judgement{Fell: 1, Repeated: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			for _, e := range c.events {
				h.add(e)
			}
			h.froze(c.frozen)
			require.Equal(t, c.want, h.judge())
			require.Equal(t, c.want.Overlaps, h.overlapsBetween(0, 1<<62))
		})
	}
}

// The table has each token in the act in which its lock was taken.
func TestTokensOfALockThatWasTakenAgain(t *testing.T) {
	h := newHistory()
	h.add(leading("a", 5, 100, 200))
	h.add(event.Event{Event: event.Retaken, Member: "a", Token: 5, NewToken: 8, Mono: 300})
	require.Equal(t, []uint64{5}, h.tokensBetween(0, 200))
	require.Equal(t, []uint64{8}, h.tokensBetween(200, 400))
}

func TestADeathEndsALeadership(t *testing.T) {
	h := newHistory()
	h.add(leading("a", 5, 100, 1000))
	h.died("a", 150)
	h.add(leading("b", 9, 160, 1100))
	require.Zero(t, h.judge().Overlaps)
	l, ok := h.leader()
	require.True(t, ok)
	require.Equal(t, "b", l.member)
}

func TestMissingWritesAreFound(t *testing.T) {
	w := newWriter(nil)
	w.acked = map[int]int64{1: 10, 2: 20, 3: 30}
	require.Equal(t, []int64{20}, w.missing(map[string]bool{"1": true, "3": true}))
	w.gaps = []gap{{0, 10}, {10, 2000}, {2000, 2001}}
	acks, longest := w.between(15, 3000)
	require.Equal(t, 2, acks)
	require.Equal(t, 1990*time.Nanosecond, longest)
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-ttl", "1s"}, "try -ttl 3s"},
		{[]string{"-ttl", "-3s"}, "try -ttl 3s"},
		{[]string{"-acts", "dance"}, `unknown act "dance": choose from election`},
		{[]string{"-acts", ""}, "unknown act"},
		{[]string{"now"}, `unexpected argument "now"`},
	} {
		_, err := parse(c.args)
		require.ErrorContains(t, err, c.want, "%v", c.args)
	}
	o, err := parse([]string{"-acts", "kill, freeze"})
	require.NoError(t, err)
	require.Equal(t, []string{"election", "kill", "freeze"}, o.acts)
}
