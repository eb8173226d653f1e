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

// maxRemembered bounds the messages that repetitions are counted of.
const maxRemembered = 256

// repeats holds back messages that were said a moment ago.
type repeats struct {
	mu   sync.Mutex
	seen map[string]*repeated
}

type repeated struct {
	at   dcs.Instant
	held int
}

func newRepeats() *repeats { return &repeats{seen: map[string]*repeated{}} }

// pass reports whether msg is to be said now, and how often it was held back
// since it was said last.
func (r *repeats) pass(msg string) (held int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.seen[msg]
	if e != nil && e.at.Elapsed() < repeatEvery {
		e.held++
		return 0, false
	}
	if e == nil {
		if len(r.seen) >= maxRemembered {
			clear(r.seen)
		}
		e = &repeated{}
		r.seen[msg] = e
	}
	held, e.held, e.at = e.held, 0, dcs.Now()
	return held, true
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
	return &hcLogger{out: quietLogger(out), repeats: newRepeats()}
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
		if held > 0 {
			args = append(args[:len(args):len(args)], "repeated", held)
		}
	}
	if l.name != "" {
		args = append([]any{"part", l.name}, args...)
	}
	l.out.Log(ctx, at, msg, hcArgs(args)...)
}

// hcArgs renders hclog's own ways of formatting.
func hcArgs(args []any) []any {
	args = slices.Clone(args)
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok {
			args[i] = fmtHC(f)
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
