package conformance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// smallest is the harness of the template, which has only Open.
func smallest(testing.TB) Store {
	server := memstore.NewServer(memstore.Options{})
	return Store{Open: func(testing.TB) dcs.Backend { return server.Open(memstore.ClientOptions{}) }}
}

// missing has the hooks that smallest lacks and that some case requires.
var missing = slices.Sorted(maps.Keys(requiredBy))

func TestSmallestHarness(t *testing.T) {
	Run(t, Harness{Name: "smallest", Virtual: true, New: smallest, NotApplicable: Without("no hooks", missing...)})
}

func TestMissingHooksAreFailuresThatNameTheRemedy(t *testing.T) {
	h := Harness{Name: "smallest", Virtual: true, New: smallest, NotApplicable: Without("no hooks", missing...)}
	for _, c := range table() {
		if _, needs := h.notApplicable(c.Name); !needs {
			continue
		}
		o := runCase(t, h, c)
		require.Equal(t, failed, o.verdict, c.Name)
		require.Contains(t, first(o.failures), "say why "+c.Name+" is not applicable")
	}
}

func TestHarnessFaults(t *testing.T) {
	h := Harness{NotApplicable: map[string]string{
		"Hold/OneWiner": "a typing error", "Nothing/*": "no such area", "KV/Limits": " ", "TLS/*": "fine",
	}}
	require.Equal(t, []string{
		`NotApplicable names "Hold/OneWiner", which is no case of the suite`,
		`NotApplicable names "Nothing/*", which is no case of the suite`,
		`NotApplicable["KV/Limits"] gives no reason`,
		"the harness has no Name",
		"the harness has no New",
	}, h.check())
}

// trial runs one body as a case.
func trial(t *testing.T, virtual bool, run func(e *env)) outcome {
	t.Helper()
	h := Harness{Name: "trial", Virtual: virtual, New: smallest}
	return runCase(t, h, spec{Case: Case{Name: "Trial/Case"}, alone: true, limit: 300 * time.Millisecond, run: run})
}

func TestFailuresOfACase(t *testing.T) {
	ended := make(chan struct{})
	defer close(ended)
	bodies := map[string]struct {
		run  func(e *env)
		want string
	}{
		"an error":   {func(e *env) { e.Error("broken") }, "broken"},
		"a panic":    {func(*env) { panic("broken") }, "panic: broken"},
		"a skip":     {func(e *env) { e.Skip("not today") }, "skipped without being declared: not today"},
		"testify":    {func(e *env) { require.Equal(e, 1, 2) }, "Not equal"},
		"in cleanup": {func(e *env) { e.Cleanup(func() { e.Error("late") }) }, "late"},
		"in a goroutine": {func(e *env) {
			e.together(3, func(i int) {
				if i == 1 {
					e.Fatal("one of three")
				}
			})
			e.Error("the case continued")
		}, "one of three"},
		"a hang": {func(e *env) { <-e.ctx.Done() }, "the case did not end within"},
		"a goroutine that stays": {func(e *env) {
			stay := make(chan struct{})
			go func() { <-stay }()
			e.TB.(*recorder).TB.Cleanup(func() { close(stay) })
		}, "a goroutine outlives the case"},
	}
	for what, body := range bodies {
		for _, virtual := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, virtual %v", what, virtual), func(t *testing.T) {
				o := trial(t, virtual, body.run)
				require.Equal(t, failed, o.verdict)
				require.Contains(t, strings.Join(o.failures, "\n"), body.want)
				require.NotContains(t, strings.Join(o.failures, "\n"), "the case continued")
			})
		}
	}
	require.Equal(t, passed, trial(t, true, func(e *env) { e.pass(time.Second) }).verdict)
	require.Equal(t, passed, trial(t, false, func(*env) {}).verdict)
}

func TestJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out.json")
	r := &report{backend: "b"}
	cases := table()
	r.add(outcome{c: cases[0], verdict: passed, took: time.Second, without: []string{"Inject"}})
	r.add(outcome{c: cases[1], verdict: notApplicable, reason: "because"})
	require.NoError(t, r.writeJSON(file))
	require.NoError(t, r.writeJSON(file), "several backends write to one file")
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	var lines []jsonLine
	for s := bufio.NewScanner(f); s.Scan(); {
		var l jsonLine
		require.NoError(t, json.Unmarshal(s.Bytes(), &l))
		lines = append(lines, l)
	}
	require.Len(t, lines, 4)
	require.Equal(t, jsonLine{Case: cases[0].Name, Backend: "b", Result: "pass", Seconds: 1, Profile: profileName(), Without: []string{"Inject"}}, lines[0])
	require.Equal(t, jsonLine{Case: cases[1].Name, Backend: "b", Result: "n/a", Profile: profileName(), Reason: "because"}, lines[1])
	require.Contains(t, r.table(), "pass, without Inject")
	require.Contains(t, r.table(), "1 passed, 0 failed, 1 not applicable")
	require.Contains(t, r.table(), "1 of those that passed left checks out")
}

func TestCasesAreDescribed(t *testing.T) {
	seen := map[string]bool{}
	name := regexp.MustCompile(`^[A-Z][A-Za-z]+/[A-Z][A-Za-z0-9]+$`)
	for _, c := range Cases() {
		require.Regexp(t, name, c.Name)
		require.False(t, seen[c.Name], "%s is listed twice", c.Name)
		seen[c.Name] = true
		require.NotEmpty(t, c.Rule, c.Name)
		require.NotEmpty(t, c.Motivation, c.Name)
	}
}
