package holdfast_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
)

// files returns the paths of the checkout's files whose names end in suffix.
func files(t *testing.T, suffix string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && len(path) > 1 && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, suffix):
			found = append(found, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

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

// cites matches a mention of rule n: P7, TestP7; not HTTP7 or P70.
func cites(n int) *regexp.Regexp {
	return regexp.MustCompile(fmt.Sprintf(`(?:^|[^0-9A-Z])P%d(?:[^0-9]|$)`, n))
}

func isTest(path string) bool {
	return strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "conformance/")
}

// Every rule is cited by the code that the page says implements it, and by a
// test; and every name that code cites is on the page.
func TestProtocolRules(t *testing.T) {
	rules := rulesOnPage(t)
	sources := make(map[string]string)
	for _, path := range files(t, ".go") {
		sources[path] = read(t, path)
	}
	if len(rules) == 0 {
		t.Error("docs/protocol.md has no rules")
	}
	for i, r := range rules {
		if r.number != i+1 {
			t.Errorf("docs/protocol.md: rule %d in order is P%d", i+1, r.number)
		}
		t.Run(fmt.Sprintf("P%d", r.number), func(t *testing.T) { checkCited(t, r, sources) })
	}
	comment := regexp.MustCompile(`(?m)^\s*// P(\d+)\b[^:\n]*:`)
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

func checkCited(t *testing.T, r ruleOnPage, sources map[string]string) {
	if len(r.packages) == 0 {
		if r.number != elector {
			t.Error("docs/protocol.md names no package that implements the rule")
		}
		return
	}
	cited := cites(r.number)
	for _, dir := range r.packages {
		found, any := false, false
		for path, source := range sources {
			if filepath.ToSlash(filepath.Dir(path)) == dir && !isTest(path) {
				any = true
				found = found || cited.MatchString(source)
			}
		}
		if !any {
			incomplete(t, dir)
		}
		if !found {
			incomplete(t, fmt.Sprintf("the part of %s that implements P%d and says so", dir, r.number))
		}
	}
	for path, source := range sources {
		if isTest(path) && path != "docs_test.go" && // which names one as an example
			cited.MatchString(source) {
			return
		}
	}
	incomplete(t, fmt.Sprintf("a test that names P%d", r.number))
}

// anchors returns the targets that a link into page may have.
func anchors(page string) []string {
	var ids []string
	for _, m := range regexp.MustCompile(`<a id="([^"]+)">`).FindAllStringSubmatch(page, -1) {
		ids = append(ids, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^#+ +(.+)$`).FindAllStringSubmatch(page, -1) {
		slug := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		ids = append(ids, strings.ReplaceAll(slug, " ", "-"))
	}
	return ids
}

func TestLinksInPages(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s#]*)(?:#([^)\s]*))?\)`)
	for _, page := range files(t, ".md") {
		text := read(t, page)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, fragment := m[1], m[2]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			path := page
			if target != "" {
				path = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: link to %s: %v", page, target, err)
				continue
			}
			if fragment != "" && strings.HasSuffix(path, ".md") && !slices.Contains(anchors(read(t, path)), fragment) {
				t.Errorf("%s: link to %s#%s: no such heading", page, target, fragment)
			}
		}
	}
}

func TestDecisionsAreIndexed(t *testing.T) {
	index := read(t, "docs/decisions/README.md")
	numbers := make(map[string]string)
	for _, path := range files(t, ".md") {
		name := filepath.Base(path)
		if filepath.ToSlash(filepath.Dir(path)) != "docs/decisions" || name == "README.md" {
			continue
		}
		if !regexp.MustCompile(`^\d{4}-[a-z0-9-]+\.md$`).MatchString(name) {
			t.Errorf("%s: the name is not NNNN-few-words.md", path)
			continue
		}
		if other := numbers[name[:4]]; other != "" {
			t.Errorf("%s and %s have one number", other, name)
		}
		numbers[name[:4]] = name
		if !strings.Contains(index, "["+name[:4]+"]("+name+")") {
			t.Errorf("docs/decisions/README.md does not list %s", name)
		}
	}
	if len(numbers) == 0 {
		t.Error("no decision found")
	}
}

func TestChangelog(t *testing.T) {
	versions := regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(read(t, "CHANGELOG.md"), -1)
	if len(versions) == 0 || versions[0][1] != "[Unreleased]" {
		t.Errorf("the first section of CHANGELOG.md is not [Unreleased]: %q", versions)
	}
}

// Commands that pages show exist: make's targets, and the packages that the go
// command is given.
func TestCommandsInPages(t *testing.T) {
	makefile := read(t, "Makefile")
	target := regexp.MustCompile("(?m)(?:^\\$ |`|\\$PWD\\S* )make ([a-z-]+)")
	path := regexp.MustCompile("(?m)(?:^\\$ |`)[^`\n]*\\bgo (?:run|test|doc|vet) [^`\n]*?(\\./[a-z0-9/]+)")
	found := 0
	for _, page := range files(t, ".md") {
		text := read(t, page)
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			found++
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).MatchString(makefile) {
				t.Errorf("%s: make %s: no such target", page, m[1])
			}
		}
		for _, m := range path.FindAllStringSubmatch(text, -1) {
			found++
			if info, err := os.Stat(m[1]); err != nil || !info.IsDir() {
				t.Errorf("%s: %s: no such package", page, m[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d commands found in the pages", found)
	}
}

// The cases of the suite that the README names as proof exist.
func TestCasesInReadme(t *testing.T) {
	known := map[string]bool{}
	for _, c := range conformance.Cases() {
		known[c.Name] = true
	}
	cases := regexp.MustCompile("`([A-Z][A-Za-z0-9]*/[A-Z][A-Za-z0-9]*)`").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(cases) == 0 {
		t.Error("README.md names no case of the suite as proof of a guarantee")
	}
	for _, m := range cases {
		if !known[m[1]] {
			t.Errorf("README.md names %s as proof, which is no case of the suite", m[1])
		}
	}
}
