package logging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/stretchr/testify/require"
)

// debugLogger writes everything to out.
func debugLogger(out io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestHCLogger(t *testing.T) {
	out := &bytes.Buffer{}
	log := NewHCLogger(debugLogger(out))
	log.Named("raft").Named("net").With("peer", "b").Info("hello", "n", 1, "f", hclog.Fmt("%d%%", 7))
	require.Contains(t, out.String(), "level=INFO msg=hello peer=b part=raft.net n=1 f=7%")
	log.Trace("a trace")
	require.NotContains(t, out.String(), "a trace", "below debug")
	require.True(t, log.IsDebug())
	require.False(t, log.IsTrace())
	require.Equal(t, hclog.Debug, log.GetLevel())
	log.StandardLogger(nil).Print("from a standard logger")
	require.Contains(t, out.String(), "from a standard logger")
	require.Equal(t, hclog.Off, NewHCLogger(nil).GetLevel(), "nil is silent")
}

func TestHCLoggerHoldsRepetitionsBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		out := &bytes.Buffer{}
		log := NewHCLogger(debugLogger(out)).Named("raft")
		for range 50 {
			log.Error("failed to contact", "peer", "b")
			log.Debug("detail")
		}
		require.Equal(t, 1, strings.Count(out.String(), "failed to contact"))
		require.Equal(t, 50, strings.Count(out.String(), "detail"))
		log.Warn("something else")
		require.Contains(t, out.String(), "something else")
		<-time.After(RepeatEvery)
		log.Error("failed to contact", "peer", "b")
		require.Equal(t, 2, strings.Count(out.String(), "failed to contact"))
		require.Contains(t, out.String(), "repeated=49")
		for i := range 3 * maxRemembered {
			log.Warn(fmt.Sprint("message ", i))
		}
		require.LessOrEqual(t, len(log.(*HCLogger).repeats.seen), maxRemembered)
	})
}

// The answer of another node may be long; its part in the log is not.
func TestHCLoggerClipsArguments(t *testing.T) {
	log := &bytes.Buffer{}
	long := strings.Repeat("y", 1<<20)
	NewHCLogger(debugLogger(log)).Error("failed", "error", errors.New(long), "text", long, "n", 1)
	require.Less(t, len(log.String()), 2*MaxText+200)
	require.Contains(t, log.String(), "n=1")
}

// An attribute of Raft's that is named like one of slog's own gets another name.
func TestHCLoggerKeepsSlogsNames(t *testing.T) {
	var out bytes.Buffer
	log := NewHCLogger(slog.New(slog.NewJSONHandler(&out, nil)))
	log.Warn("failed to contact", "server-id", "time", "time", time.Second, "msg", 1)
	log.With("level", 7).Error("bad", "source", "x")
	for line := range strings.Lines(out.String()) {
		for _, key := range []string{"time", "level", "msg", "source"} {
			require.LessOrEqual(t, strings.Count(line, `"`+key+`":`), 1, line)
		}
	}
	require.Contains(t, out.String(), `"server-id":"time","raft_time":1000000000,"raft_msg":1`)
	require.Contains(t, out.String(), `"raft_level":7,"raft_source":"x"`)
}
