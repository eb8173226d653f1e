package transport

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
)

// Peers that say something else each time do not fill the log.
func TestPeersDoNotFillTheLog(t *testing.T) {
	log := &recorder{}
	_, b := startPair(t, func(c *Options) { c.Logger = log.logger() })
	for i := range 200 {
		conn, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		stranger := b.hello.asPeer(fmt.Sprint("stranger-", i))
		stranger.cluster[0]++
		_, err = stranger.greet(conn, KindCall, "")
		require.ErrorContains(t, err, "another cluster")
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	for i := range 20 {
		conn := callBy(t, b, fmt.Sprint("babbler-", i))
		_, err := conn.Write([]byte{wireVersion + 1 + byte(i), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	for _, line := range []string{"a connection was refused", "a call connection was closed"} {
		require.Eventually(t, func() bool { return strings.Contains(log.String(), line) }, 10*time.Second, time.Millisecond)
	}
	require.Equal(t, 1, strings.Count(log.String(), "a connection was refused"))
	require.Equal(t, 1, strings.Count(log.String(), "a call connection was closed"))
}

// The port, which a peer chooses, does not make a line another one; the address
// and the kind of failure do.
func TestLinesAboutPeersAreLimited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		log := &recorder{}
		n := &Network{log: log.logger(), refused: logging.NewRepeats(maxPeerLines)}
		refusal := fmt.Errorf("%w: %s", ErrPeerRefused, strings.Repeat("x", 1<<20))
		for port := range 1000 {
			at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: port + 1}
			n.logPeer(t.Context(), slog.LevelWarn, "refused", at, refusal)
			n.logPeer(t.Context(), slog.LevelWarn, "refused", at, errCrowded)
		}
		require.Equal(t, 2, strings.Count(log.String(), "msg=refused"))
		require.Less(t, len(log.String()), 2*maxReason+1000)
		n.logPeer(t.Context(), slog.LevelWarn, "refused", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)}, refusal)
		require.Equal(t, 3, strings.Count(log.String(), "msg=refused"))
		n.logPeer(t.Context(), slog.LevelWarn, "closed", nil, errors.New("no address"))
		require.Equal(t, 1, strings.Count(log.String(), "msg=closed"))

		<-time.After(logging.RepeatEvery)
		n.logPeer(t.Context(), slog.LevelWarn, "refused", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, refusal)
		require.Contains(t, log.String(), "repeated=999")

		// Addresses without end are no way round.
		<-time.After(logging.RepeatEvery)
		before := strings.Count(log.String(), "msg=refused")
		for i := range 10 * maxPeerLines {
			n.logPeer(t.Context(), slog.LevelWarn, "refused", &net.TCPAddr{IP: net.IPv4(198, 51, byte(i>>8), byte(i))}, refusal)
		}
		require.Equal(t, maxPeerLines, strings.Count(log.String(), "msg=refused")-before)
		<-time.After(logging.RepeatEvery)
		n.logPeer(t.Context(), slog.LevelWarn, "refused", &net.TCPAddr{IP: net.IPv4(203, 0, 113, 1)}, refusal)
		require.Contains(t, log.String(), fmt.Sprint("others=", 9*maxPeerLines), "messages that were held back are counted")
	})
}
