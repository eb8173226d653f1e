package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseProcessors(t *testing.T) {
	got, ok := parseProcessors([]byte("cpu  100 2 30 4000 50 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"))
	require.True(t, ok)
	require.Equal(t, processors{idle: 40500 * time.Millisecond, nice: 20 * time.Millisecond}, got)
	for _, bad := range []string{"", "cpu", "cpu 1 2 3 4", "cpu0 1 2 3 4 5 6", "cpu 1 2 3 x 5"} {
		_, ok := parseProcessors([]byte(bad))
		require.False(t, ok, bad)
	}
	now, ok := readProcessors()
	require.True(t, ok)
	require.Positive(t, now.idle)
}
