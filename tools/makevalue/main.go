// Command makevalue prints values that the Makefile computes from the sources. It needs
// the standard library only, so that it runs without a network in a fresh checkout.
//
//	makevalue help MAKEFILE           the targets with a description, as a list
//	makevalue version GO.MOD MODULE   the version of a module that a go.mod requires
//	makevalue packages DIR PREFIX     the packages with a test function of that prefix
//	makevalue functions DIR PREFIX    the same, a line "package function" for each
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

func main() {
	lines, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "makevalue:", err)
		os.Exit(1)
	}
	for _, l := range lines {
		fmt.Println(l)
	}
}

func run(args []string) ([]string, error) {
	switch {
	case len(args) == 2 && args[0] == "help":
		return help(args[1])
	case len(args) == 3 && args[0] == "version":
		return version(args[1], args[2])
	case len(args) == 3 && args[0] == "packages":
		found, err := functions(args[1], args[2])
		var packages []string
		for _, f := range found {
			packages = append(packages, f.dir)
		}
		return slices.Compact(packages), err
	case len(args) == 3 && args[0] == "functions":
		found, err := functions(args[1], args[2])
		var lines []string
		for _, f := range found {
			lines = append(lines, f.dir+" "+f.name)
		}
		return lines, err
	}
	return nil, fmt.Errorf("unknown arguments %q", args)
}

// help lists the targets of a Makefile that have a description: "target: ... ## text".
func help(makefile string) ([]string, error) {
	text, err := os.ReadFile(makefile)
	if err != nil {
		return nil, err
	}
	targets := regexp.MustCompile(`(?m)^([a-z-]+):.*## (.*)$`).FindAllStringSubmatch(string(text), -1)
	width := 0
	for _, m := range targets {
		width = max(width, len(m[1]))
	}
	var lines []string
	for _, m := range targets {
		lines = append(lines, fmt.Sprintf("  make %-*s  %s", width, m[1], m[2]))
	}
	return lines, nil
}

// version returns the version of module that the file mod requires.
func version(mod, module string) ([]string, error) {
	text, err := os.ReadFile(mod)
	if err != nil {
		return nil, err
	}
	m := regexp.MustCompile(`(?m)^(?:require )?\s*` + regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("%s does not require %s", mod, module)
	}
	return []string{string(m[1])}, nil
}

// function is a test function of a package.
type function struct{ dir, name string }

// functions returns the test functions below root whose names begin with prefix, as
// those of benchmarks and fuzz targets do, ordered by package. It skips nested modules
// and files of other systems.
func functions(root, prefix string) ([]function, error) {
	var found []function
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && isSkipped(path, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		dir, name := filepath.Split(path)
		if ok, err := build.Default.MatchFile(dir, name); err != nil || !ok {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(root, dir)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && hasPrefix(fn.Name.Name, prefix) {
				found = append(found, function{"./" + filepath.ToSlash(pkg), fn.Name.Name})
			}
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = errors.New("no function " + prefix + "... found")
	}
	slices.SortStableFunc(found, func(a, b function) int { return strings.Compare(a.dir, b.dir) })
	return found, err
}

// isSkipped reports whether the go command leaves dir out of ./... too.
func isSkipped(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil || name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

// hasPrefix reports whether the go command takes name for a test function of the kind
// prefix: FuzzURL and Fuzz are, Fuzzy is not.
func hasPrefix(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	first, _ := utf8.DecodeRuneInString(rest)
	return ok && !unicode.IsLower(first)
}
