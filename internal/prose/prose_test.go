package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

const sample = `package sample

// Told says what is missing: see below.
//
//go:generate what
func Told() string { //nolint:who // a directive
	return "somebody has to mend it"
}

/* It must
   not tell. */
var short = "what now"
`

func TestFindings(t *testing.T) {
	found := findings(ofGo("sample/a.go", []byte(sample)))
	var got []string
	for _, f := range found {
		got = append(got, f.String())
	}
	require.Equal(t, []string{
		`sample/a.go:3: "tell": report, return, notify, log, detect or distinguish (2)`,
		`sample/a.go:3: "what": name the thing: the outcome, the error, the entries (3)`,
		`sample/a.go:7: "somebody": name the actor: the caller, the session, the server (1)`,
		`sample/a.go:7: "mend": repair, correct or fix (5)`,
		`sample/a.go:11: "tell": report, return, notify, log, detect or distinguish (2)`,
	}, got)
}

func TestMarkdownWithoutCode(t *testing.T) {
	lines := ofMarkdown("docs/a.md", []byte("what\n```go\nwho\n```\ntell `what` [of](what.md) it\n"))
	require.Equal(t, []line{{"docs/a.md", 1, "what", true}, {"docs/a.md", 5, "tell  [of it", true}}, lines)
}

func TestBaseline(t *testing.T) {
	lines := ofGo("sample/a.go", []byte(sample))
	found := findings(lines)
	require.Equal(t, "sample 5\n", string(formatBaseline(lines, found)))
	var out bytes.Buffer
	require.NoError(t, compare(&out, parseBaseline([]byte("sample 5\n")), found))
	require.Empty(t, out.String())
	require.Error(t, compare(&out, parseBaseline([]byte("sample 4\n")), found))
	require.Contains(t, out.String(), "sample: 5 findings, allowed are 4\n")
	require.Error(t, compare(&out, parseBaseline([]byte("sample 6\n")), found), "a baseline that is too high lets findings back in")
	require.Error(t, compare(&out, parseBaseline([]byte("other 1\n")), nil))
}

func TestMeasure(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, measure(&out, ofGo("sample/a.go", []byte("package sample\n\n// One must tell: now.\n"))))
	require.Regexp(t, `(?m)^ +4 +0\.0 +250\.0 +0\.0 +250\.0 +250\.0 +sample$`, out.String())
}
