package transport

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A setup connection carries one message and one answer, with any lives of
// the nodes, and neither is longer than maxSetup.
func TestSetup(t *testing.T) {
	a, b := startPair(t)
	_, _, err := a.Ask(testContext(t), "", b.Addr(), nil)
	require.Error(t, err, "nobody answers yet")
	b.Become(func(h *Hello) { h.Life = newLife })
	b.ServeSetup(func(peer Hello, message []byte) ([]byte, error) {
		assert.Equal(t, "a", peer.ID)
		if len(message) == 0 {
			return nil, errors.New("malformed")
		}
		return append([]byte("re: "), message...), nil
	})
	peer, answer, err := a.Ask(testContext(t), "", LifeAddr(b.Addr(), oldLife), []byte("x"))
	require.NoError(t, err)
	require.Equal(t, "re: x", string(answer))
	require.Equal(t, newLife, peer.Life)
	_, _, err = a.Ask(testContext(t), "", b.Addr(), nil)
	require.ErrorContains(t, err, b.Addr(), "the handler refused it")
	_, _, err = a.Ask(testContext(t), "", b.Addr(), make([]byte, maxSetup))
	require.Error(t, err, "with its header it is too long")
	require.NotErrorIs(t, err, ErrPeerRefused)
}
