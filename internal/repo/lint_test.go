package repo_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// lintBlock is one rule of depguard in .golangci.yml.
type lintBlock struct {
	name     string
	strict   bool // only listed packages may be imported
	files    []string
	packages []string // denied, or allowed if strict
}

// covers reports whether the rule holds for the file at path.
func (b lintBlock) covers(path string) bool {
	included := false
	for _, pattern := range b.files {
		negated := strings.HasPrefix(pattern, "!")
		matched := matchesGlob(strings.TrimPrefix(pattern, "!"), path)
		if negated && matched {
			return false
		}
		included = included || !negated && matched
	}
	return included
}

// matchesGlob matches path as depguard does: $all and $test stand for their
// files, ** crosses slashes, * does not, and {a,b} is either.
func matchesGlob(pattern, path string) bool {
	switch pattern {
	case "$all":
		return true
	case "$test":
		return strings.HasSuffix(path, "_test.go")
	}
	pattern = regexp.QuoteMeta(strings.TrimPrefix(pattern, "${base-path}/"))
	pattern = strings.NewReplacer(`\*\*`, ".*", `\*`, "[^/]*", `\{`, "(", `\}`, ")", ",", "|").Replace(pattern)
	return regexp.MustCompile("^" + pattern + "$").MatchString(path)
}

// lintBlocks returns depguard's rules by name.
func lintBlocks(t *testing.T) map[string]lintBlock {
	t.Helper()
	_, rules, found := strings.Cut(read(t, ".golangci.yml"), "    depguard:\n      rules:\n")
	rules, _, ends := strings.Cut(rules, "\n    errorlint:\n")
	if !found || !ends {
		t.Fatal(".golangci.yml: depguard's rules not found")
	}
	blocks := map[string]lintBlock{}
	heading := regexp.MustCompile(`(?m)^ {8}([a-z0-9-]+):$`)
	bounds := append(heading.FindAllStringSubmatchIndex(rules, -1), []int{len(rules)})
	for i, at := range bounds[:len(bounds)-1] {
		b := lintBlock{name: rules[at[2]:at[3]]}
		section := ""
		for line := range strings.Lines(rules[at[1]:bounds[i+1][0]]) {
			text := strings.TrimSpace(line)
			item := strings.Trim(strings.TrimPrefix(text, "- "), `"`)
			switch {
			case text == "list-mode: strict":
				b.strict = true
			case strings.HasSuffix(text, ":"):
				section = text
			case strings.HasPrefix(text, "- ") && section == "files:":
				b.files = append(b.files, item)
			case strings.HasPrefix(text, "- "):
				b.packages = append(b.packages, strings.TrimPrefix(item, "pkg: "))
			}
		}
		if len(b.files) == 0 || len(b.packages) == 0 {
			t.Fatalf(".golangci.yml: rule %s lists no files or no packages", b.name)
		}
		blocks[b.name] = b
	}
	return blocks
}

// backends returns the import paths of the backends: every package at the top
// of the module that is none of the other layers.
func backends(packages map[string]goPackage) []string {
	others := own("dcs", "keepalive", "conformance", "examples", "cmd", "internal")
	var found []string
	for path := range packages {
		if in(path, module) && path != module && !strings.Contains(strings.TrimPrefix(path, module+"/"), "/") && !in(path, others...) {
			found = append(found, path)
		}
	}
	slices.Sort(found)
	return found
}

// exempt lists the only directories in which a rule does not hold.
var exempt = map[string][]string{
	"arrows":     {"conformance", "examples", "internal/testcerts", "internal/testcluster", "internal/docgen"},
	"production": {"conformance", "internal/bubble", "internal/testcluster"},
	"wall clock": {"conformance", "examples", "internal/mutants", "internal/testcerts", "internal/testcluster", "internal/testrun"},
	"only":       {"examples", "internal/docgen"},
	"strict":     {"internal/testcluster", "internal/testrun", "internal/docgen"},
}

// A new package is covered by the linter's rules without a change of
// .golangci.yml, and a new backend has to get the rule that bears its name.
func TestLintRulesCoverEveryPackage(t *testing.T) {
	packages := list(t, "", "", "./...")
	stores := backends(packages)
	if len(stores) < 5 {
		t.Errorf("only %d backends found: %v", len(stores), stores)
	}
	dirs := []string{"newstore", "newstore/sub", "internal/new", "dcs/new", "keepalive/new", "conformance/fault/new"}
	for path := range packages {
		if in(path, module) && path != module {
			dirs = append(dirs, strings.TrimPrefix(path, module+"/"))
		}
	}
	blocks := lintBlocks(t)
	clock := wallClockExclusion(t)
	for _, dir := range dirs {
		file := dir + "/file.go"
		isExempt := func(rule string) bool { return in(dir, exempt[rule]...) }
		for _, rule := range []string{"arrows", "production"} {
			if !blocks[rule].covers(file) && !isExempt(rule) {
				t.Errorf("rule %s of .golangci.yml does not hold in %s", rule, dir)
			}
		}
		if clock.MatchString(file) && !isExempt("wall clock") {
			t.Errorf(".golangci.yml allows the wall clock in %s", dir)
		}
		for _, store := range stores {
			name := strings.TrimPrefix(store, module+"/")
			checkOnly(t, blocks["only-"+name], name, dir)
		}
		if in(dir, "internal") && !isExempt("strict") && !hasStrictRule(blocks, file) {
			t.Errorf("no rule of .golangci.yml lists the packages that %s may import", dir)
		}
	}
}

// checkOnly checks that dir may not import the backend name, unless dir is part
// of it.
func checkOnly(t *testing.T, b lintBlock, name, dir string) {
	t.Helper()
	if !slices.Contains(b.packages, module+"/"+name) {
		t.Fatalf(".golangci.yml has no rule only-%s that denies the import of %s", name, name)
	}
	for _, file := range []string{dir + "/file.go", dir + "/file_test.go"} {
		mayImport := in(dir, append([]string{name}, exempt["only"]...)...) ||
			strings.HasSuffix(file, "_test.go") && in(dir, "dcs", "conformance", "internal")
		if b.covers(file) == mayImport {
			t.Errorf(".golangci.yml: rule only-%s holds in %s: %v, want %v", name, file, mayImport, !mayImport)
		}
	}
}

func hasStrictRule(blocks map[string]lintBlock, file string) bool {
	for _, b := range blocks {
		if b.strict && b.covers(file) {
			return true
		}
	}
	return false
}

// wallClockExclusion returns the pattern of the files that may read the wall
// clock, but for the one that implements [dcs.Now].
func wallClockExclusion(t *testing.T) *regexp.Regexp {
	t.Helper()
	m := regexp.MustCompile(`text: wall clock\n +path: (\S+)\n`).FindAllStringSubmatch(read(t, ".golangci.yml"), -1)
	if len(m) != 2 || strings.Contains(read(t, ".golangci.yml"), "text: wall clock\n        path-except:") {
		t.Fatalf(".golangci.yml: %d exclusions from the rule on the wall clock found, want 2 with a path", len(m))
	}
	if !strings.HasPrefix(m[1][1], `^dcs/instant`) {
		t.Errorf(".golangci.yml: the second exclusion from the rule on the wall clock is %s", m[1][1])
	}
	return regexp.MustCompile(m[0][1])
}
