package repo_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ruleOnPage is one rule of docs/protocol.md.
type ruleOnPage struct {
	number   int
	packages []string // where it is implemented; none for a rule that is yet to come
}

// rulesOnPage reads the headings "### P7: ..." and, of each rule, the packages
// that the paragraph "Where" names.
func rulesOnPage(t *testing.T) []ruleOnPage {
	t.Helper()
	page := read(t, "docs/protocol.md")
	var rules []ruleOnPage
	headings := regexp.MustCompile(`(?m)^### P(\d+)\b`).FindAllStringSubmatchIndex(page, -1)
	for i, at := range headings {
		section := page[at[0]:]
		if i+1 < len(headings) {
			section = page[at[0]:headings[i+1][0]]
		}
		number, err := strconv.Atoi(page[at[2]:at[3]])
		if err != nil {
			t.Fatal(err)
		}
		_, where, _ := strings.Cut(section, "**Where.** ")
		where, _, _ = strings.Cut(where, "\n")
		r := ruleOnPage{number: number}
		for _, m := range regexp.MustCompile("`([a-z0-9/]+)`").FindAllStringSubmatch(where, -1) {
			r.packages = append(r.packages, m[1])
		}
		rules = append(rules, r)
	}
	return rules
}

// cited returns the rules that a text mentions: P7, TestP7; not HTTP7.
func cited(text string) map[int]bool {
	rules := map[int]bool{}
	for i, c := range text {
		if c != 'P' || i > 0 && (text[i-1] >= '0' && text[i-1] <= '9' || text[i-1] >= 'A' && text[i-1] <= 'Z') {
			continue
		}
		digits := len(text[i+1:]) - len(strings.TrimLeft(text[i+1:], "0123456789"))
		if n, err := strconv.Atoi(text[i+1 : i+1+digits]); err == nil {
			rules[n] = true
		}
	}
	return rules
}

func isTest(path string) bool {
	return strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "conformance/")
}

func TestCited(t *testing.T) {
	require.Equal(t, map[int]bool{7: true, 70: true, 3: true}, cited("P7, P70: HTTP8 and 1P9, TestP3. P"))
}

// Every rule is cited by the code that the page says implements it, and by a
// test; and every name that code cites is on the page.
func TestProtocolRules(t *testing.T) {
	rules := rulesOnPage(t)
	sources, cites := make(map[string]string), make(map[string]map[int]bool)
	for _, path := range files(t, ".go") {
		sources[path] = read(t, path)
		cites[path] = cited(sources[path])
	}
	if len(rules) == 0 {
		t.Error("docs/protocol.md has no rules")
	}
	for i, r := range rules {
		if r.number != i+1 {
			t.Errorf("docs/protocol.md: rule %d in order is P%d", i+1, r.number)
		}
		t.Run(fmt.Sprintf("P%d", r.number), func(t *testing.T) { checkCited(t, r, cites) })
	}
	comment := regexp.MustCompile(`// P(\d+)\b[^:\n]*:`) // begins with a literal, which is found fast
	for path, source := range sources {
		for _, m := range comment.FindAllStringSubmatch(source, -1) {
			if n, err := strconv.Atoi(m[1]); err != nil || n < 1 || n > len(rules) {
				t.Errorf("%s cites P%s, which docs/protocol.md does not have", path, m[1])
			}
		}
	}
}

// elector is the rule whose code is yet to come.
const elector = 23

func checkCited(t *testing.T, r ruleOnPage, cites map[string]map[int]bool) {
	if len(r.packages) == 0 {
		if r.number != elector {
			t.Error("docs/protocol.md names no package that implements the rule")
		}
		return
	}
	for _, dir := range r.packages {
		found, any := false, false
		for path, rules := range cites {
			if filepath.ToSlash(filepath.Dir(path)) == dir && !isTest(path) {
				any = true
				found = found || rules[r.number]
			}
		}
		if !any {
			incomplete(t, dir)
		}
		if !found {
			incomplete(t, fmt.Sprintf("the part of %s that implements P%d and says so", dir, r.number))
		}
	}
	for path, rules := range cites {
		if isTest(path) && path != "internal/repo/protocol_test.go" && // which names one as an example
			rules[r.number] {
			return
		}
	}
	incomplete(t, fmt.Sprintf("a test that names P%d", r.number))
}
