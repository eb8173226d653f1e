package logging

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// RepeatEvery is how often the same message is let through: while a peer is
// down, Raft says so several times a second.
const RepeatEvery = 10 * time.Second

const (
	// MaxText bounds a text that another node may have written, in bytes.
	MaxText = 1 << 10
	// maxRemembered bounds the messages of Raft that repetitions are counted of.
	maxRemembered = 256
)

// Repeats holds back messages that were logged within RepeatEvery, and every new
// one while its number of different messages was.
type Repeats struct {
	most int

	mu     sync.Mutex
	seen   map[string]*repeated
	others int // messages held back because seen was full
}

type repeated struct {
	at   dcs.Instant
	held int
}

// NewRepeats returns a Repeats that lets most different messages through within
// RepeatEvery.
func NewRepeats(most int) *Repeats { return &Repeats{most: most, seen: map[string]*repeated{}} }

// Pass reports whether msg should be logged now. The arguments have the numbers of
// times that it and others were held back since it was.
func (r *Repeats) Pass(msg string) (args []any, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.seen[msg]
	if e != nil && e.at.Elapsed() < RepeatEvery {
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
// were any. Messages of them that were held back count among the others.
func (r *Repeats) forget() bool {
	any := false
	for msg, e := range r.seen {
		if e.at.Elapsed() >= RepeatEvery {
			r.others += e.held
			delete(r.seen, msg)
			any = true
		}
	}
	return any
}

// HCLogger passes the messages of hashicorp's packages to a slog.Logger. Warnings and
// errors that repeat within RepeatEvery are held back and counted. No stored
// data, no key or value, is among their arguments.
type HCLogger struct {
	out     *slog.Logger
	name    string
	implied []any
	repeats *Repeats
}

var _ hclog.Logger = (*HCLogger)(nil)

// NewHCLogger returns a logger that writes to out, which may be nil.
func NewHCLogger(out *slog.Logger) *HCLogger {
	return &HCLogger{out: Quiet(out), repeats: NewRepeats(maxRemembered)}
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
func (l *HCLogger) Log(level hclog.Level, msg string, args ...any) {
	ctx := context.Background()
	at := slogLevel(level)
	if level == hclog.Off || !l.out.Enabled(ctx, at) {
		return
	}
	if at >= slog.LevelWarn {
		held, ok := l.repeats.Pass(l.name + "\x00" + msg)
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

// hcArgs renders hclog's own ways of formatting, and shortens texts that another
// node may have written.
func hcArgs(args []any) []any {
	args = slices.Clone(args)
	for i, a := range args {
		switch a := a.(type) {
		case hclog.Format:
			args[i] = Clip(fmtHC(a))
		case string:
			args[i] = Clip(a)
		case error:
			args[i] = Clip(a.Error())
		}
	}
	for i := 0; i+1 < len(args); i += 2 {
		if key, ok := args[i].(string); ok && slices.Contains(reserved, key) {
			args[i] = "raft_" + key
		}
	}
	return args
}

// reserved are the keys of slog's own attributes. Raft logs a duration as "time".
var reserved = []string{slog.TimeKey, slog.LevelKey, slog.MessageKey, slog.SourceKey}

// Trace implements hclog.Logger.
func (l *HCLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }

// Debug implements hclog.Logger.
func (l *HCLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info implements hclog.Logger.
func (l *HCLogger) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn implements hclog.Logger.
func (l *HCLogger) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error implements hclog.Logger.
func (l *HCLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *HCLogger) enabled(level hclog.Level) bool {
	return l.out.Enabled(context.Background(), slogLevel(level))
}

// IsTrace implements hclog.Logger.
func (l *HCLogger) IsTrace() bool { return l.enabled(hclog.Trace) }

// IsDebug implements hclog.Logger.
func (l *HCLogger) IsDebug() bool { return l.enabled(hclog.Debug) }

// IsInfo implements hclog.Logger.
func (l *HCLogger) IsInfo() bool { return l.enabled(hclog.Info) }

// IsWarn implements hclog.Logger.
func (l *HCLogger) IsWarn() bool { return l.enabled(hclog.Warn) }

// IsError implements hclog.Logger.
func (l *HCLogger) IsError() bool { return l.enabled(hclog.Error) }

// ImpliedArgs implements hclog.Logger.
func (l *HCLogger) ImpliedArgs() []any { return l.implied }

// With implements hclog.Logger.
func (l *HCLogger) With(args ...any) hclog.Logger {
	with := *l
	with.out = l.out.With(hcArgs(args)...)
	with.implied = append(l.implied[:len(l.implied):len(l.implied)], args...)
	return &with
}

// Name implements hclog.Logger.
func (l *HCLogger) Name() string { return l.name }

// Named implements hclog.Logger.
func (l *HCLogger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

// ResetNamed implements hclog.Logger.
func (l *HCLogger) ResetNamed(name string) hclog.Logger {
	named := *l
	named.name = name
	return &named
}

// SetLevel implements hclog.Logger. The level is the slog.Logger's.
func (l *HCLogger) SetLevel(hclog.Level) {}

// GetLevel implements hclog.Logger.
func (l *HCLogger) GetLevel() hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Off
}

// StandardLogger implements hclog.Logger.
func (l *HCLogger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

// StandardWriter implements hclog.Logger.
func (l *HCLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return hcWriter{l} }

// hcWriter takes the lines of a standard logger.
type hcWriter struct{ l *HCLogger }

func (w hcWriter) Write(line []byte) (int, error) {
	w.l.Info(string(line))
	return len(line), nil
}

// fmtHC renders a value of hclog.Fmt.
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

// Quiet returns l, or one that discards everything.
func Quiet(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// Clip returns text, shortened to MaxText bytes.
func Clip(text string) string {
	if len(text) <= MaxText {
		return text
	}
	const cut = "…"
	return strings.ToValidUTF8(text[:MaxText-len(cut)], "") + cut
}
