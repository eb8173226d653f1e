package filestore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A restart of the machine sets its clock to zero. Leases go on with their whole TTL then,
// and end once that has passed on the new clock.
func TestLeasesBeginAgainAfterARestart(t *testing.T) {
	s := newState()
	s.advance("first boot", time.Hour)
	s.extend("lease", 10*time.Second, time.Hour)
	_, err := s.apply(dcs.Txn{Then: []dcs.Write{dcs.PutLeased("leader", nil, "lease")}})
	require.NoError(t, err)
	require.False(t, s.due("first boot", time.Hour+9*time.Second))

	require.True(t, s.due("second boot", time.Minute), "a deadline of another boot means nothing")
	s.advance("second boot", time.Minute)
	require.NotEmpty(t, s.snapshot("").Entries)
	require.False(t, s.due("second boot", time.Minute+9*time.Second))
	before := s.Revision
	s.advance("second boot", time.Minute+10*time.Second)
	require.Empty(t, s.snapshot("").Entries)
	require.Greater(t, s.Revision, before, "the end of a lease is a change")
	require.Equal(t, s.Revision, s.Deleted)
}
