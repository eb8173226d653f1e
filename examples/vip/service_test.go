//go:build unix

package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs/elector"
)

func newService(o options) *service {
	o.ttl = 3 * time.Second
	if o.fence == "" {
		o.fence = "true"
	}
	return &service{options: o, timing: o.timing(), log: slog.New(slog.DiscardHandler), running: map[int]chan struct{}{}}
}

// The timing leaves time to demote with any TTL that a store may grant.
func TestTiming(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 5 * time.Minute} {
		_, err := elector.Timetable(options{ttl: ttl}.timing())
		require.NoError(t, err, "%v", ttl)
	}
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		check, role string
		fails       bool
	}{
		{check: "", role: "replica"},
		{check: "exit 0", role: "primary"},
		{check: "exit 1", role: "replica"},
		{check: "exit 2", fails: true},
		{check: "kill -9 $$", fails: true},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		m, err := newService(options{check: c.check}).Report(ctx)
		cancel()
		require.Equal(t, c.fails, err != nil, "%s: %v", c.check, err)
		require.Equal(t, c.role, m.Role, c.check)
	}
}

// TestCommandIsKilled: a command and its children end with their time.
func TestCommandIsKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	s := newService(options{demote: "sleep 100 & echo $! > " + file + "; wait"})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, s.Demote(ctx, elector.Reason{}), "was killed")
	requireEnded(t, file)
}

// TestFenceKills: a promotion that runs ends before the fence command begins, and no
// command of an ended leadership can begin later.
func TestFenceKills(t *testing.T) {
	dir := t.TempDir()
	file, after := filepath.Join(dir, "pid"), filepath.Join(dir, "after")
	s := newService(options{promote: "sleep 100 & echo $! > " + file + "; wait; touch " + after})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- s.command(ctx, "promote", s.promote, "") }()
	require.Eventually(t, func() bool { b, _ := os.ReadFile(file); return len(b) > 1 }, 10*time.Second, 5*time.Millisecond)
	s.timing.FenceTimeout = 10 * time.Second // the machine may be slow
	require.NoError(t, s.Fence(elector.Reason{}))
	require.Error(t, <-over)
	requireEnded(t, file)
	require.NoFileExists(t, after)
	cancel()
	require.ErrorIs(t, s.command(ctx, "promote", s.promote, ""), context.Canceled)
}

func requireEnded(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return ended(pid) }, 10*time.Second, 5*time.Millisecond)
}
