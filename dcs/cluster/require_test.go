package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// require ends a test whose expectation fails. Package dcs and those below it
// depend on the standard library only, their tests too.
var require expectations

type expectations struct{}

func fatal(t testing.TB, args []any, format string, more ...any) {
	t.Helper()
	t.Fatalf("%s%s", fmt.Sprintf(format, more...), strings.TrimSuffix(" "+fmt.Sprint(args...), " "))
}

func (expectations) True(t testing.TB, ok bool, args ...any) {
	t.Helper()
	if !ok {
		fatal(t, args, "got false, want true")
	}
}

func (r expectations) False(t testing.TB, ok bool, args ...any) {
	t.Helper()
	r.True(t, !ok, args...)
}

func (expectations) Equal(t testing.TB, want, got any, args ...any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		fatal(t, args, "got %+v, want %+v", got, want)
	}
}

func (expectations) NoError(t testing.TB, err error, args ...any) {
	t.Helper()
	if err != nil {
		fatal(t, args, "got error %v", err)
	}
}

func (expectations) ErrorIs(t testing.TB, err, kind error, args ...any) {
	t.Helper()
	if !errors.Is(err, kind) {
		fatal(t, args, "got error %v, want %v", err, kind)
	}
}

func (expectations) Error(t testing.TB, err error, args ...any) {
	t.Helper()
	if err == nil {
		fatal(t, args, "got no error")
	}
}

// Len takes a slice, a map or a string.
func (expectations) Len(t testing.TB, v any, want int, args ...any) {
	t.Helper()
	if got := reflect.ValueOf(v).Len(); got != want {
		fatal(t, args, "got %d elements, want %d: %+v", got, want, v)
	}
}

func (expectations) Nil(t testing.TB, v any, args ...any) {
	t.Helper()
	if !reflect.ValueOf(v).IsNil() {
		fatal(t, args, "got %+v, want nil", v)
	}
}

func (expectations) Zero(t testing.TB, v any, args ...any) {
	t.Helper()
	if !reflect.ValueOf(v).IsZero() {
		fatal(t, args, "got %+v, want the zero value", v)
	}
}

func (r expectations) Contains(t testing.TB, text, part string, args ...any) {
	t.Helper()
	if !strings.Contains(text, part) {
		fatal(t, args, "%q does not contain %q", text, part)
	}
}

func (r expectations) NotContains(t testing.TB, text, part string, args ...any) {
	t.Helper()
	if strings.Contains(text, part) {
		fatal(t, args, "%q contains %q", text, part)
	}
}

// JSON requires that two texts are the same JSON.
func (r expectations) JSON(t testing.TB, want, got string, args ...any) {
	t.Helper()
	var w, g any
	r.NoError(t, json.Unmarshal([]byte(want), &w), args...)
	r.NoError(t, json.Unmarshal([]byte(got), &g), args...)
	if !reflect.DeepEqual(w, g) {
		fatal(t, args, "got %s, want %s", got, want)
	}
}
