package transport

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRefusalsExcludeOnlyWithoutAMajority(t *testing.T) {
	refused := fmt.Errorf("%w: its certificate", ErrPeerRefused)
	var r refusals
	require.NoError(t, r.exclusion(1), "a cluster of one has nobody to refuse it")
	require.NoError(t, r.exclusion(3))
	r.dialled("b", refused)
	require.NoError(t, r.exclusion(3), "this node and the third one would do")
	r.dialled("c", errors.New("connection refused"))
	require.NoError(t, r.exclusion(3), "a node that is down has refused nobody")
	r.dialled("c", refused)
	require.ErrorIs(t, r.exclusion(3), ErrPeerRefused)
	require.NoError(t, r.exclusion(5))
	r.dialled("c", errors.New("connection refused"))
	require.ErrorIs(t, r.exclusion(3), ErrPeerRefused, "its verdict has not changed")
	r.dialled("b", nil)
	require.NoError(t, r.exclusion(3))
}
