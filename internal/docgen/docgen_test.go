package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// constant is a section of page.md with fixed text.
func constant(name, text string) section {
	return section{"page.md", name, func(context.Context, string) (string, error) { return text, nil }}
}

// module is a directory with a page.
func module(t *testing.T, page string) (root string) {
	t.Helper()
	root = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "page.md"), []byte(page), 0o600)) //nolint:gosec // G703: the directory is the test's own
	return root
}

const page = "# Free text\n<!-- generated: one -->\nold\n<!-- end generated -->\nMore.\n<!-- generated: two -->\n<!-- end generated -->\n"

func TestRunWritesWhatCheckReports(t *testing.T) {
	sections := []section{constant("one", "new\n"), constant("two", "")}
	root := module(t, page)
	require.EqualError(t, run(t.Context(), root, true, sections), `page.md: the section "generated: one" is out of date; run make docs`)
	text, err := os.ReadFile(filepath.Join(root, "page.md"))
	require.NoError(t, err)
	require.Equal(t, page, string(text), "a check writes nothing")
	require.NoError(t, run(t.Context(), root, false, sections))
	text, err = os.ReadFile(filepath.Join(root, "page.md"))
	require.NoError(t, err)
	require.Equal(t, strings.Replace(page, "old\n", "new\n", 1), string(text))
	require.NoError(t, run(t.Context(), root, true, sections))
	edited := strings.Replace(string(text), "Free text", "Other words", 1)
	require.NoError(t, run(t.Context(), module(t, edited), true, sections), "sentences are free")
	require.Error(t, run(t.Context(), module(t, strings.Replace(string(text), "new", "now", 1)), true, sections), "a generated part is not")
}

func TestMarkersThatDoNotMatch(t *testing.T) {
	one, two := constant("one", "new\n"), constant("two", "")
	failing := section{"page.md", "two", func(context.Context, string) (string, error) { return "", errors.New("no data") }}
	for want, c := range map[string]struct {
		page     string
		sections []section
	}{
		`page.md: marker "generated: two": it is there twice, or internal/docgen has no such section`: {page, []section{one}},
		`page.md: marker "generated: one": it is there twice, or internal/docgen has no such section`: {page + page, []section{one, two}},
		`page.md: marker "generated: three" is missing`:                                               {page, []section{one, two, constant("three", "")}},
		`page.md: marker "generated: one" has no end marker`:                                          {strings.Replace(page, endMarker, "", 1), []section{one, two}},
		`page.md: marker "generated: two" has no end marker`:                                          {strings.TrimSuffix(page, endMarker), []section{one, two}},
		`page.md: an end marker has no begin marker before it`:                                        {page + endMarker, []section{one, two}},
		`page.md: marker "generated: two": no data`:                                                   {page, []section{one, failing}},
	} {
		require.EqualError(t, run(t.Context(), module(t, c.page), false, c.sections), want)
	}
}

func TestAdviceThatCannotWork(t *testing.T) {
	caps := dcs.Caps{MinTTL: 10 * time.Second}
	good := advice{timing(12*time.Second, 2*time.Second, 5*time.Second), 4 * time.Second, "", 0}
	require.NoError(t, checkAdvice(good, caps))
	short := good
	short.timing.TTL = 9 * time.Second
	require.ErrorIs(t, checkAdvice(short, caps), dcs.ErrInvalid, "the store does not grant it")
	slow := good
	slow.election = 5 * time.Second
	require.EqualError(t, checkAdvice(slow, caps), "RetryTimeout 5s does not cover an election of 5s")
}

// writeResults writes the lines of a run with each profile.
func writeResults(t *testing.T, lines string) (root string) {
	t.Helper()
	root = t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "docs", "results"), 0o700))
	for _, profile := range []string{"fast", "slow"} {
		text := strings.ReplaceAll(lines, "PROFILE", profile)
		require.NoError(t, os.WriteFile(filepath.Join(root, "docs", "results", profile+".jsonl"), []byte(text), 0o600))
	}
	return root
}

func TestResults(t *testing.T) {
	var auth []string
	for _, name := range casesOf("Auth") {
		auth = append(auth, `{"case":"`+name+`","backend":"a","result":"n/a","seconds":0,"profile":"PROFILE","reason":"no users"}`)
	}
	root := writeResults(t, strings.Join(append(auth,
		`{"case":"KV/Limits","backend":"a","result":"fail","seconds":9,"profile":"PROFILE"}`,
		`{"case":"KV/Limits","backend":"a","result":"pass","seconds":1.5,"profile":"PROFILE"}`,
		`{"case":"KV/HostileKeys","backend":"a","result":"pass","seconds":2,"profile":"PROFILE","without":["Inject"]}`,
		`{"case":"KV/HostileKeys","backend":"b","result":"fail","seconds":20,"profile":"PROFILE"}`,
	), "\n"))
	totals, err := renderTotals(t.Context(), root)
	require.NoError(t, err)
	require.Contains(t, totals, "| a | fast | 2 | 1 | 0 | 3 | 3.5 s |\n| b | fast | 0 | 0 | 1 | 0 | 20 s |\n")
	cases, err := renderByCase(t.Context(), root)
	require.NoError(t, err)
	require.Contains(t, cases, "| Case | a | b |\n")
	require.Contains(t, cases, "| KV/HostileKeys | pass, without Inject, 2.00s | fail, 20.00s |\n")
	require.Contains(t, cases, "| KV/Limits | pass, 1.50s | not run |\n", "the last result counts")
	require.Equal(t, len(conformance.Cases())+2, strings.Count(cases, "\n"))
	left, err := renderNotApplicable(t.Context(), root)
	require.NoError(t, err)
	require.Contains(t, left, "| a | `Auth/*` | no users |\n")
}

func TestResultsThatAreWrong(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{`{"case":"KV/Limit","backend":"a","result":"pass","profile":"PROFILE"}`, `slow.jsonl:1: the suite has no case "KV/Limit"`},
		{`{"case":"KV/Limits","backend":"a","result":"pass","profile":"other"}`, `slow.jsonl:1: profile "other", want "slow"`},
		{`{"case":`, "slow.jsonl:1: unexpected end of JSON input"},
	} {
		_, err := renderByCase(t.Context(), writeResults(t, c.line))
		require.ErrorContains(t, err, c.want)
	}
}
