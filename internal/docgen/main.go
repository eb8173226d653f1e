// Command docgen writes the generated parts of the documentation: tables that
// repeat constants, and programs that are tests. Each part stands between
//
//	<!-- generated: NAME -->
//	<!-- end generated -->
//
// on lines of their own. Everything outside of the markers is written by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-dcs/holdfast/internal/mutants"
)

//go:generate go run .

// section is one generated part of a page.
type section struct {
	page, name string
	// render returns the text between the markers. root is the module's directory.
	render func(ctx context.Context, root string) (string, error)
}

var sections = []section{
	{"README.md", "example", renderExample},
	{"README.md", "grants", renderGrants},
	{"docs/operations.md", "timings", renderTimings},
	{"docs/operations.md", "elector timetable", renderTimetable},
	{"docs/operations.md", "far nodes", renderFar},
	{"docs/operations.md", "endpoint figures", renderFigures},
	{"docs/conformance.md", "template", renderTemplate},
	{"docs/results/README.md", "cases", renderCases},
	{"docs/results/README.md", "results", renderTotals},
	{"docs/results/README.md", "results by case", renderByCase},
	{"docs/results/README.md", "not applicable", renderNotApplicable},
	{"docs/results/mutants.md", "mutants", func(context.Context, string) (string, error) { return mutants.Table() }},
}

func main() {
	check := flag.Bool("check", false, "write nothing, and fail when a page is out of date")
	flag.Parse()
	root, err := moduleRoot()
	if err == nil {
		err = run(context.Background(), root, *check, sections)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// moduleRoot returns the directory of go.mod, at or above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("docgen: no go.mod at or above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// run brings every page up to date, or reports each section that is not.
func run(ctx context.Context, root string, check bool, sections []section) error {
	var faults []error
	for _, page := range pagesOf(sections) {
		path := filepath.Join(root, page)
		text, err := os.ReadFile(path) //nolint:gosec // G304: the repository's own page
		if err != nil {
			return fmt.Errorf("docgen: %w", err)
		}
		updated, stale, err := update(ctx, root, page, string(text), sections)
		switch {
		case err != nil:
			faults = append(faults, err)
		case !check && len(stale) > 0:
			if err := os.WriteFile(path, []byte(updated), 0o644); err != nil { //nolint:gosec // G306: a page is for everybody to read
				return fmt.Errorf("docgen: %w", err)
			}
		default:
			for _, name := range stale {
				faults = append(faults, fmt.Errorf("%s: the section %q is out of date; run make docs", page, "generated: "+name))
			}
		}
	}
	return errors.Join(faults...)
}

func pagesOf(sections []section) []string {
	var pages []string
	seen := map[string]bool{}
	for _, s := range sections {
		if !seen[s.page] {
			seen[s.page] = true
			pages = append(pages, s.page)
		}
	}
	return pages
}
