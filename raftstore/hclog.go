package raftstore

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// repeatEvery is how often the same message is let through: while a peer is
// down, Raft says so several times a second.
const repeatEvery = 10 * time.Second

const (
	// maxRemembered bounds the messages of Raft that repetitions are counted of.
	maxRemembered = 256
	// maxPeerLines bounds the lines about peers within repeatEvery.
	maxPeerLines = 64
)

// repeats holds back messages that were said a moment ago, and every message
// while most different ones were.
type repeats struct {
	most int

	mu     sync.Mutex
	seen   map[string]*repeated
	others int // messages held back because seen was full
}

type repeated struct {
	at   dcs.Instant
	held int
}

func newRepeats(most int) *repeats { return &repeats{most: most, seen: map[string]*repeated{}} }

// pass reports whether msg is to be said now. The arguments say how often it
// and others were held back since then.
func (r *repeats) pass(msg string) (args []any, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.seen[msg]
	if e != nil && e.at.Elapsed() < repeatEvery {
		e.held++
		return nil, false
	}
	if e == nil {
		if len(r.seen) >= r.most && !r.forget() {
			r.others++
			return nil, false
		}
		e = &repeated{}
		r.seen[msg] = e
	}
	if e.held > 0 {
		args = append(args, "repeated", e.held)
	}
	if r.others > 0 {
		args = append(args, "others", r.others)
	}
	e.held, e.at, r.others = 0, dcs.Now(), 0
	return args, true
}

// forget drops the messages that may be said again, and reports whether there
// were any. What was held back of them counts among the others.
func (r *repeats) forget() bool {
	any := false
	for msg, e := range r.seen {
		if e.at.Elapsed() >= repeatEvery {
			r.others += e.held
			delete(r.seen, msg)
			any = true
		}
	}
	return any
}

// hcLogger hands what hashicorp's packages say to a slog.Logger. Warnings and
// errors that repeat within repeatEvery are held back and counted. Nothing of
// what is written, no key or value, is among their arguments.
type hcLogger struct {
	out     *slog.Logger
	name    string
	implied []any
	repeats *repeats
}

var _ hclog.Logger = (*hcLogger)(nil)

func newHCLogger(out *slog.Logger) *hcLogger {
	return &hcLogger{out: quietLogger(out), repeats: newRepeats(maxRemembered)}
}

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info, hclog.NoLevel:
		return slog.LevelInfo
	case hclog.Trace:
		return slog.LevelDebug - 4
	default:
		return slog.LevelDebug
	}
}

// Log implements hclog.Logger.
func (l *hcLogger) Log(level hclog.Level, msg string, args ...any) {
	ctx := context.Background()
	at := slogLevel(level)
	if level == hclog.Off || !l.out.Enabled(ctx, at) {
		return
	}
	if at >= slog.LevelWarn {
		held, ok := l.repeats.pass(l.name + "\x00" + msg)
		if !ok {
			return
		}
		args = append(args[:len(args):len(args)], held...)
	}
	if l.name != "" {
		args = append([]any{"part", l.name}, args...)
	}
	l.out.Log(ctx, at, msg, hcArgs(args)...)
}

// hcArgs renders hclog's own ways of formatting, and shortens what another
// node may have written.
func hcArgs(args []any) []any {
	args = slices.Clone(args)
	for i, a := range args {
		switch a := a.(type) {
		case hclog.Format:
			args[i] = clipped(fmtHC(a))
		case string:
			args[i] = clipped(a)
		case error:
			args[i] = clipped(a.Error())
		}
	}
	return args
}

// Trace implements hclog.Logger.
func (l *hcLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }

// Debug implements hclog.Logger.
func (l *hcLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info implements hclog.Logger.
func (l *hcLogger) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn implements hclog.Logger.
func (l *hcLogger) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error implements hclog.Logger.
func (l *hcLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *hcLogger) enabled(level hclog.Level) bool {
	return l.out.Enabled(context.Background(), slogLevel(level))
}

// IsTrace implements hclog.Logger.
func (l *hcLogger) IsTrace() bool { return l.enabled(hclog.Trace) }

// IsDebug implements hclog.Logger.
func (l *hcLogger) IsDebug() bool { return l.enabled(hclog.Debug) }

// IsInfo implements hclog.Logger.
func (l *hcLogger) IsInfo() bool { return l.enabled(hclog.Info) }

// IsWarn implements hclog.Logger.
func (l *hcLogger) IsWarn() bool { return l.enabled(hclog.Warn) }

// IsError implements hclog.Logger.
func (l *hcLogger) IsError() bool { return l.enabled(hclog.Error) }

// ImpliedArgs implements hclog.Logger.
func (l *hcLogger) ImpliedArgs() []any { return l.implied }

// With implements hclog.Logger.
func (l *hcLogger) With(args ...any) hclog.Logger {
	with := *l
	with.out = l.out.With(hcArgs(args)...)
	with.implied = append(l.implied[:len(l.implied):len(l.implied)], args...)
	return &with
}

// Name implements hclog.Logger.
func (l *hcLogger) Name() string { return l.name }

// Named implements hclog.Logger.
func (l *hcLogger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

// ResetNamed implements hclog.Logger.
func (l *hcLogger) ResetNamed(name string) hclog.Logger {
	named := *l
	named.name = name
	return &named
}

// SetLevel implements hclog.Logger. The level is the slog.Logger's.
func (l *hcLogger) SetLevel(hclog.Level) {}

// GetLevel implements hclog.Logger.
func (l *hcLogger) GetLevel() hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Off
}

// StandardLogger implements hclog.Logger.
func (l *hcLogger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

// StandardWriter implements hclog.Logger.
func (l *hcLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return hcWriter{l} }

// hcWriter takes the lines of a standard logger.
type hcWriter struct{ l *hcLogger }

func (w hcWriter) Write(line []byte) (int, error) {
	w.l.Info(string(line))
	return len(line), nil
}

// fmtHC renders what hclog.Fmt made.
func fmtHC(f hclog.Format) string {
	if len(f) == 0 {
		return ""
	}
	format, ok := f[0].(string)
	if !ok {
		return fmt.Sprint(f...)
	}
	return fmt.Sprintf(format, f[1:]...)
}
