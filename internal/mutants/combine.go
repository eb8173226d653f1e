package mutants

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Most mutants change nothing but the bodies of functions. They are built together
// (mutant schemata), because compilation takes most of the time: each function gets
// the changed body of every such mutant before its own, and the environment of the
// test binary chooses.

// chosenBy is the environment variable that names the mutant in a combined build.
// Without it the code is that of the product.
const chosenBy = "HOLDFAST_MUTANT"

// chosen is the variable in each changed package that holds that name.
const chosen = "mutantUnderTest"

// change is a changed body of a function.
type change struct {
	mutant, file string
	decl         int    // the function's place among the declarations of the file
	body         string // without its braces
}

// source is a parsed file.
type source struct {
	text  string
	file  *ast.File
	files *token.FileSet
}

func parse(text string) (source, error) {
	s := source{text: text, files: token.NewFileSet()}
	var err error
	s.file, err = parser.ParseFile(s.files, "", text, parser.SkipObjectResolution)
	return s, err
}

func (s source) offset(p token.Pos) int { return s.files.Position(p).Offset }

func (s source) between(from, to token.Pos) string { return s.text[s.offset(from):s.offset(to)] }

// changes returns the bodies that m changes. It reports false if m changes anything
// else.
func (m Mutant) changes(root string) ([]change, bool) {
	changed, err := m.Apply(root)
	if err != nil {
		return nil, false
	}
	var all []change
	for _, name := range sortedKeys(changed) {
		old, err := readSource(root, name)
		if err != nil {
			return nil, false
		}
		new, err := parse(changed[name])
		if err != nil || len(old.file.Decls) != len(new.file.Decls) {
			return nil, false
		}
		for i := range old.file.Decls {
			body, same, ok := bodyOf(old, new, i)
			if !ok {
				return nil, false
			}
			if !same {
				all = append(all, change{m.Name, name, i, body})
			}
		}
	}
	return all, len(all) > 0
}

func readSource(root, name string) (source, error) {
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name))) //nolint:gosec // G304: a file of this module
	if err != nil {
		return source{}, err
	}
	return parse(string(b))
}

// bodyOf compares declaration i of two versions of a file. If they differ in the body
// of a function only, it returns the new body. It reports false if they differ in
// anything else, and for a body with labels, of which a function may have only one
// each.
func bodyOf(old, new source, i int) (body string, same, ok bool) {
	a, b := old.file.Decls[i], new.file.Decls[i]
	if old.between(a.Pos(), a.End()) == new.between(b.Pos(), b.End()) {
		return "", true, true
	}
	f, isFunc := a.(*ast.FuncDecl)
	g, stillFunc := b.(*ast.FuncDecl)
	if !isFunc || !stillFunc || f.Body == nil || g.Body == nil ||
		old.between(f.Pos(), f.Body.Lbrace) != new.between(g.Pos(), g.Body.Lbrace) {
		return "", false, false
	}
	labels := false
	ast.Inspect(g.Body, func(n ast.Node) bool {
		_, label := n.(*ast.LabeledStmt)
		labels = labels || label
		return true
	})
	return new.between(g.Body.Lbrace+1, g.Body.Rbrace), false, !labels
}

// combine returns the files of a build with all changes, by their paths below root.
func combine(root string, all []change) (map[string]string, error) {
	byFile := make(map[string][]change)
	for _, c := range all {
		byFile[c.file] = append(byFile[c.file], c)
	}
	files := make(map[string]string)
	for name, changes := range byFile {
		s, err := readSource(root, name)
		if err != nil {
			return nil, err
		}
		files[name] = s.with(changes)
		files[path.Join(path.Dir(name), "zz_mutant.go")] = fmt.Sprintf(
			"package %s\n\nimport \"os\"\n\nvar %s = os.Getenv(%q)\n", s.file.Name.Name, chosen, chosenBy)
	}
	return files, nil
}

// with returns the text of s with the changed bodies in front of the functions' own.
func (s source) with(changes []change) string {
	byDecl := make(map[int][]change)
	for _, c := range changes {
		byDecl[c.decl] = append(byDecl[c.decl], c)
	}
	var out strings.Builder
	at := 0
	for _, i := range slices.SortedFunc(maps.Keys(byDecl), cmp.Compare) {
		f := s.file.Decls[i].(*ast.FuncDecl)
		// A changed body that compiles alone never reaches this statement.
		end := "return"
		if f.Type.Results != nil {
			end = `panic("a mutant has no return")`
		}
		begin := s.offset(f.Body.Lbrace) + 1
		out.WriteString(s.text[at:begin])
		at = begin
		for _, c := range byDecl[i] {
			fmt.Fprintf(&out, "\nif %s == %q {%s\n%s\n}\n", chosen, c.mutant, c.body, end)
		}
	}
	return out.String() + s.text[at:]
}
