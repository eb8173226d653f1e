package guardian

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// must ends the test unless ok.
func must(t *testing.T, ok bool, text string, values ...any) {
	t.Helper()
	if !ok {
		t.Fatal(append([]any{text}, values...)...)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until cond holds.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for begin := time.Now(); !cond(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("not within a minute")
		}
	}
}

func errorIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

func errorContains(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("%v, want %q in it", err, text)
	}
}
