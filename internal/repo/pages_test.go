package repo_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
	_, entries, _ := strings.Cut(read(t, "CHANGELOG.md"), "\n## ")
	for line := range strings.Lines(entries) {
		if line = strings.TrimSpace(line); line != "" && !regexp.MustCompile(`^(- |##|\[)`).MatchString(line) {
			t.Errorf("CHANGELOG.md has an entry of more than one line: %s", line)
		}
	}
}

// The first screen of the README shows the library in use and the choice of a store.
func TestFirstScreen(t *testing.T) {
	first, _, _ := strings.Cut(read(t, "README.md"), "\n## ")
	if lines := strings.Count(first, "\n"); lines > 40 {
		t.Errorf("README.md has %d lines before its first section, want at most 40", lines)
	}
	for _, text := range []string{"dcs.Open(", "session.Acquire(", "| `raftstore` |", "| `etcd3` |", "| `consul` |", "| `zookeeper` |", "$ go run ./examples/failover"} {
		if !strings.Contains(first, text) {
			t.Errorf("README.md does not show %s before its first section", text)
		}
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

// The README and the page for operators name the servers and the settings that are not
// supported.
func TestUnsupportedIsNamed(t *testing.T) {
	_, unsupported, _ := strings.Cut(read(t, "docs/operations.md"), "\n## Not supported\n")
	unsupported, _, _ = strings.Cut(unsupported, "\n## ")
	readme := read(t, "README.md")
	for _, text := range []string{"grpc-proxy", "load balancer that changes", "`jute.maxbuffer`"} {
		if !strings.Contains(readme, text) {
			t.Errorf("README.md does not name %s", text)
		}
		if !strings.Contains(unsupported, text) {
			t.Errorf("docs/operations.md, Not supported, does not name %s", text)
		}
	}
}
