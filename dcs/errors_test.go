package dcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

var kinds = []error{
	ErrNotFound, ErrConflict, ErrLost, ErrReleased, ErrUnavailable,
	ErrExpired, ErrAmbiguous, ErrUnauthorized, ErrInvalid, ErrClosed,
}

// Callers branch on which kind matches which. A change of this table is a change of
// the contract.
func TestKindsMatch(t *testing.T) {
	matches := map[error][]error{
		ErrExpired:      {ErrUnavailable},
		ErrAmbiguous:    {ErrUnavailable},
		ErrUnauthorized: {ErrUnavailable},
	}
	for _, k := range kinds {
		for _, target := range kinds {
			want := k == target
			for _, m := range matches[k] {
				want = want || m == target
			}
			for name, err := range map[string]error{"bare": k, "typed": &Error{Kind: k}, "wrapped": fmt.Errorf("x: %w", &Error{Kind: k})} {
				if got := errors.Is(err, target); got != want {
					t.Errorf("%s %q is %q: %v, want %v", name, k, target, got, want)
				}
			}
		}
		if KindOf(k) != k || KindOf(&Error{Kind: k}) != k || KindOf(fmt.Errorf("x: %w", &Error{Kind: k, Err: ErrLost})) != k {
			t.Errorf("KindOf does not find %q", k)
		}
	}
	if KindOf(nil) != nil || KindOf(io.EOF) != nil || KindOf(&Error{Err: io.EOF}) != nil {
		t.Error("KindOf finds a kind where there is none")
	}
}

// A cause never turns an unknown outcome into a definite one, a definite one into an
// unknown one, or one definite answer into another.
func TestCauseDoesNotContradictTheKind(t *testing.T) {
	unknown := map[error]bool{ErrUnavailable: true, ErrExpired: true, ErrAmbiguous: true, ErrUnauthorized: true}
	for _, k := range kinds {
		for _, inner := range kinds {
			err := &Error{Kind: k, Err: fmt.Errorf("one copy: %w", &Error{Kind: inner, Err: io.EOF})}
			for _, target := range kinds {
				want := errors.Is(k, target) ||
					errors.Is(inner, target) && (target == ErrClosed || unknown[k] && unknown[target])
				if got := errors.Is(err, target); got != want {
					t.Errorf("%q because of %q is %q: %v, want %v", k, inner, target, got, want)
				}
			}
			if !errors.Is(err, io.EOF) || !errors.Is(err, err.Err) {
				t.Errorf("%q because of %q hides its cause", k, inner)
			}
		}
	}
	last := &Error{Op: "Renew", Kind: ErrUnauthorized, Err: unscripted("x")}
	expired := &Error{Kind: ErrExpired, Err: last}
	var found unscripted
	if !errors.Is(expired, last) || !errors.Is(expired, ErrUnauthorized) || !errors.As(expired, &found) {
		t.Error("an ErrExpired does not wrap the last renewal's error")
	}
	var k *kind
	if errors.As(&Error{Kind: ErrLost, Err: ErrConflict}, &k); k != ErrLost {
		t.Errorf("the kind of an ErrLost is found to be %v", k)
	}
}

func TestErrorText(t *testing.T) {
	err := &Error{
		Backend: "raftstore", Op: "Commit", Key: "leader", Endpoint: "h1:7000", Kind: ErrConflict,
		Current: &Entry{Key: "leader", Modified: 9, Created: 7}, Err: io.EOF,
	}
	want := `dcs: raftstore: Commit "leader": conflict ("leader" is at revision 9, created at 7) [h1:7000]: EOF`
	if got := err.Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := (&Error{}).Error(); got != "dcs: unknown error" {
		t.Error(got)
	}
	long := (&Error{Op: "Get", Key: strings.Repeat("x\n", 1<<20), Kind: ErrInvalid}).Error()
	if len(long) > 300 || strings.Contains(long, "\n") {
		t.Errorf("a hostile key makes a message of %d bytes", len(long))
	}
}

// A backend's error reaches the caller as one *Error with the kind on which it is
// safe to act.
func TestBackendErrorsAreWrappedOnce(t *testing.T) {
	eof := io.EOF
	custom := errors.New("custom kind")
	for name, c := range map[string]struct {
		err         error
		get, commit error
		fields      Error
	}{
		"nothing known":        {eof, ErrUnavailable, ErrAmbiguous, Error{Err: eof}},
		"typed":                {&Error{Backend: "b", Op: "Txn", Key: "y", Endpoint: "h", Kind: ErrUnauthorized, Err: eof}, ErrUnauthorized, ErrUnauthorized, Error{Backend: "b", Op: "Txn", Key: "y", Endpoint: "h", Err: eof}},
		"not found":            {ErrNotFound, ErrNotFound, ErrAmbiguous, Error{}},
		"conflict":             {&Error{Kind: ErrConflict, Current: &Entry{Key: "k"}}, ErrUnavailable, ErrConflict, Error{Current: &Entry{Key: "k"}}},
		"lost":                 {&Error{Kind: ErrLost}, ErrUnavailable, ErrLost, Error{}},
		"ambiguous":            {&Error{Kind: ErrAmbiguous, Attempt: 7}, ErrUnavailable, ErrAmbiguous, Error{Attempt: 7}},
		"fenced":               {&Error{Kind: ErrAmbiguous, Fenced: true}, ErrUnavailable, ErrAmbiguous, Error{Fenced: true}},
		"bare unavailable":     {ErrUnavailable, ErrUnavailable, ErrUnavailable, Error{}},
		"invalid":              {fmt.Errorf("x: %w", ErrInvalid), ErrInvalid, ErrInvalid, Error{}},
		"closed":               {ErrClosed, ErrClosed, ErrAmbiguous, Error{}},
		"typed closed":         {&Error{Kind: ErrClosed, Err: eof}, ErrClosed, ErrAmbiguous, Error{}},
		"a session's kind":     {&Error{Kind: ErrExpired}, ErrUnavailable, ErrUnavailable, Error{}},
		"another session's":    {&Error{Kind: ErrReleased}, ErrUnavailable, ErrAmbiguous, Error{}},
		"unknown kind":         {&Error{Kind: custom, Err: eof}, ErrUnavailable, ErrAmbiguous, Error{Err: eof}},
		"no kind":              {&Error{Err: eof}, ErrUnavailable, ErrAmbiguous, Error{Err: eof}},
		"nil":                  {(*Error)(nil), ErrUnavailable, ErrAmbiguous, Error{}},
		"typed, wrapped":       {fmt.Errorf("x: %w", &Error{Kind: ErrConflict, Endpoint: "h", Current: &Entry{Key: "k"}}), ErrUnavailable, ErrConflict, Error{Endpoint: "h", Current: &Entry{Key: "k"}}},
		"ambiguous, wrapped":   {fmt.Errorf("x: %w", &Error{Kind: ErrAmbiguous, Attempt: 7}), ErrUnavailable, ErrAmbiguous, Error{Attempt: 7}},
		"fenced, wrapped":      {fmt.Errorf("x: %w", &Error{Kind: ErrAmbiguous, Fenced: true}), ErrUnavailable, ErrAmbiguous, Error{Fenced: true}},
		"the gravest of three": {errors.Join(ErrConflict, ErrUnavailable, ErrUnauthorized), ErrUnauthorized, ErrUnauthorized, Error{}},
		"the gravest of two":   {errors.Join(ErrUnauthorized, &Error{Kind: ErrAmbiguous}), ErrUnavailable, ErrAmbiguous, Error{}},
	} {
		b := &scripted{}
		b.get = func(context.Context, string) (Entry, error) { return Entry{Key: "k"}, c.err }
		b.commit = func(context.Context, Txn) (Revision, error) { return 5, c.err }
		s := newStore(t, b, Options{})
		entry, getErr := s.Get(t.Context(), "k")
		rev, commitErr := s.Commit(t.Context(), Txn{Then: []Write{Delete("k")}})
		if entry.Key != "" || rev != 0 {
			t.Errorf("%s: a result in addition to an error", name)
		}
		for op, got := range map[string]error{"Get": getErr, "Commit": commitErr} {
			want := c.get
			if op == "Commit" {
				want = c.commit
			}
			var e *Error
			if !errors.As(got, &e) || e.Kind != want {
				t.Errorf("%s: %s answers %v, want %q", name, op, got, want)
				continue
			}
			f := c.fields
			if f.Backend == "" {
				f.Backend, f.Op, f.Key = "scripted", op, "k"
			}
			if e.Backend != f.Backend || e.Op != f.Op || e.Key != f.Key || e.Endpoint != f.Endpoint || e.Attempt != f.Attempt || e.Fenced != f.Fenced || (e.Current == nil) != (f.Current == nil) {
				t.Errorf("%s: %s answers %+v, want the fields of %+v", name, op, e, f)
			}
			if f.Err != nil && e.Err != f.Err {
				t.Errorf("%s: %s wraps %v, want %v itself", name, op, e.Err, f.Err)
			}
			if errors.Is(got, ErrClosed) != errors.Is(c.err, ErrClosed) {
				t.Errorf("%s: %s answers %v", name, op, got)
			}
			if any(got) == any(c.err) {
				t.Errorf("%s: the backend's own value was changed", name)
			}
		}
	}
}

// A metric's labels are stable.
func TestKindLabel(t *testing.T) {
	for want, err := range map[string]error{
		"ok": nil, "not_found": ErrNotFound, "conflict": &Error{Kind: ErrConflict}, "lost": ErrLost, "released": ErrReleased,
		"unavailable": ErrUnavailable, "expired": &Error{Kind: ErrExpired, Err: ErrUnauthorized}, "ambiguous": fmt.Errorf("x: %w", ErrAmbiguous),
		"unauthorized": ErrUnauthorized, "invalid": ErrInvalid, "closed": ErrClosed,
		"canceled": context.Canceled, "deadline_exceeded": fmt.Errorf("x: %w", context.DeadlineExceeded), "unknown": errors.New("x"),
	} {
		if got := KindLabel(err); got != want {
			t.Errorf("KindLabel(%v) is %q, want %q", err, got, want)
		}
	}
	if got := KindLabel(&Error{Kind: errors.New("x")}); got != "unknown" {
		t.Errorf("an unknown Kind: %q", got)
	}
}
