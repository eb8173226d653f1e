package repo_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
)

// The manual of package dcs names suite cases; each must exist, and each guarantee
// must name at least one.
func TestManualNamesRealCases(t *testing.T) {
	text, err := os.ReadFile("dcs/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	areas := map[string]bool{}
	for _, c := range conformance.Cases() {
		known[c.Name] = true
		area, _, _ := strings.Cut(c.Name, "/")
		areas[area] = true
	}
	manual := strings.ReplaceAll(string(text), "\n//", "\n")
	named := 0
	for _, m := range regexp.MustCompile(`\b([A-Z][A-Za-z]+)/[A-Z][A-Za-z]+`).FindAllStringSubmatch(manual, -1) {
		if !areas[m[1]] {
			t.Errorf("the manual names %s: there is no such area", m[0])
		} else if !known[m[0]] {
			t.Errorf("the manual names %s: there is no such case", m[0])
		}
		named++
	}
	if named == 0 {
		t.Error("the manual names no case")
	}
	_, guarantees, _ := strings.Cut(manual, "# Guarantees")
	guarantees, _, _ = strings.Cut(guarantees, "# Not guaranteed")
	items := regexp.MustCompile(`(?m)^ +\d+\. `).Split(guarantees, -1)[1:]
	for _, item := range items {
		if !regexp.MustCompile(`\([A-Za-z]+/`).MatchString(item) {
			t.Errorf("a guarantee without a case: %s", item)
		}
	}
	if len(items) == 0 {
		t.Error("the manual lists no guarantees")
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
