package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// event is one line of go tool test2json.
type event struct {
	Action, Test, Output string
}

// tailLines is how much of a failed test's output the summary repeats.
const tailLines = 20

// record is how the tests of one package went, as far as they have.
type record struct {
	mu    sync.Mutex
	tests map[string]*testState
	order []*testState
	total int      // top-level tests of the package
	tail  []string // the end of the output of no test
	crash []string // the begin of the output of a panic or another crash
}

// testState is how one test went.
type testState struct {
	name      string
	status    string // the last of run, pause, cont, pass, fail and skip
	since     time.Time
	hasSub    bool
	announced int // cases that the test is going to run, 0 if it does not say
	tail      []string
}

func newRecord() *record { return &record{tests: map[string]*testState{}} }

func (t *testState) ended() bool { return slices.Contains([]string{"pass", "fail", "skip"}, t.status) }

// follow records the events of stream until it ends, and copies their output to
// log.
func (r *record) follow(stream io.Reader, log io.Writer) error {
	for dec := json.NewDecoder(stream); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("go tool test2json: %w", err)
		}
		if _, err := io.WriteString(log, e.Output); err != nil {
			return err
		}
		r.add(e)
	}
}

func (r *record) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case e.Action == "output":
		r.output(e)
	case e.Test != "":
		t := r.test(e.Test)
		t.status, t.since = e.Action, time.Now()
		r.crash = nil // nothing runs on after a panic, so the output was something else
	}
}

// test returns the state of a test, which it creates when the test is new.
func (r *record) test(name string) *testState {
	if t := r.tests[name]; t != nil {
		return t
	}
	t := &testState{name: name}
	r.tests[name] = t
	r.order = append(r.order, t)
	// A subtest's own name may contain slashes, so every prefix is tried.
	for i, c := range name {
		if parent := r.tests[name[:i]]; c == '/' && parent != nil {
			parent.hasSub = true
		}
	}
	return t
}

var (
	announcement = regexp.MustCompile(`conformance: (\d+) cases\b`)
	crashed      = regexp.MustCompile(`^(panic|fatal error|SIG[A-Z]+|ThreadSanitizer): `)
	frame        = regexp.MustCompile(`^(=== (RUN|PAUSE|CONT|NAME) |\s*--- (PASS|FAIL|SKIP): |PASS$|FAIL$)`)
)

func (r *record) output(e event) {
	line := strings.TrimSuffix(e.Output, "\n")
	if len(r.crash) > 0 || crashed.MatchString(line) {
		if len(r.crash) < tailLines {
			r.crash = append(r.crash, line)
		}
	}
	if frame.MatchString(line) || strings.TrimSpace(line) == "" {
		return
	}
	tail := &r.tail
	if e.Test != "" {
		t := r.test(e.Test)
		tail = &t.tail
		if m := announcement.FindStringSubmatch(line); m != nil {
			t.announced, _ = strconv.Atoi(m[1]) // the expression lets only digits through
		}
	}
	if *tail = append(*tail, line); len(*tail) > tailLines {
		*tail = (*tail)[1:]
	}
}

// counts returns how many tests passed, failed and were skipped. A test with
// subtests counts only where it failed and none of its subtests did.
func (r *record) counts() (passed, failed, skipped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.order {
		switch {
		case t.hasSub:
		case t.status == "pass":
			passed++
		case t.status == "skip":
			skipped++
		}
	}
	return passed, len(r.failed()), skipped
}

// failed returns the tests that failed by themselves, or that were running when
// the test program ended.
func (r *record) failed() []*testState {
	var failed []*testState
	for _, t := range r.order {
		if t.status == "fail" || (!t.ended() && t.status != "pause") {
			failed = append(failed, t)
		}
	}
	return slices.DeleteFunc(failed, func(t *testState) bool {
		return slices.ContainsFunc(failed, func(sub *testState) bool { return strings.HasPrefix(sub.name, t.name+"/") })
	})
}

// isCrashed reports whether the test program ended before its tests did.
func (r *record) isCrashed() bool {
	return slices.ContainsFunc(r.order, func(t *testState) bool { return !t.ended() })
}

// progress returns how many cases are done, of how many, and the test that has
// been running for longest. The cases are the top-level tests; a test that
// announces its cases counts as those.
func (r *record) progress() (done, total int, current *testState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	top := 0
	for _, t := range r.order {
		if !t.ended() && t.status != "pause" && !t.hasSub && (current == nil || t.since.Before(current.since)) {
			current = &testState{name: t.name, since: t.since}
		}
		if strings.Contains(t.name, "/") {
			continue
		}
		d, n := r.cases(t)
		top, done, total = top+1, done+d, total+n
	}
	return done, total + max(0, r.total-top), current
}

// cases returns how many cases of a top-level test are done, of how many.
func (r *record) cases(top *testState) (done, total int) {
	if top.announced == 0 {
		if top.ended() {
			done = 1
		}
		return done, 1
	}
	for _, t := range r.order {
		if t.ended() && !t.hasSub && strings.HasPrefix(t.name, top.name+"/") {
			done++
		}
	}
	if top.ended() {
		return done, done
	}
	return min(done, top.announced), top.announced
}
