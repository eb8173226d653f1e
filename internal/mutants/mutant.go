// Package mutants breaks the product one rule at a time, to show that its tests
// catch every rule's absence.
//
// A mutant is a file NAME.txtar in this directory: a header, and one or more
// replacements of whole lines.
//
//	rule: P18
//	why: Release deletes the lock of another holder.
//	kill: ./memstore TestConformance/Hold/StaleRelease
//	-- old dcs/session_claim.go --
//	the exact lines as they are, found once in that file
//	-- new --
//	the lines in their place, possibly none
//
// A rule is one of docs/protocol.md (P18, or several: P11, P16), or "contract"
// for a duty that only the documentation of package dcs states. A kill line
// names a package, one test or subtest that must fail, and optional flags of the
// test binary. Each kill line must succeed.
package mutants

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

//go:embed *.txtar
var files embed.FS

const suffix = ".txtar"

// Mutant is one deliberate defect.
type Mutant struct {
	Name  string // of the file, without its suffix
	Rules []string
	Why   string // the consequence of the defect
	Kills []Kill
	Edits []Edit
}

// Kill names a test that must fail on the mutant.
type Kill struct {
	Package string // as ./memstore
	Test    string // as TestConformance/Hold/StaleRelease
	Flags   []string
}

func (k Kill) String() string {
	return strings.Join(append([]string{k.Package, k.Test}, k.Flags...), " ")
}

// Edit replaces lines of one file.
type Edit struct {
	File     string // below the module's root, with slashes
	Old, New string
}

// All returns every mutant of this directory, ordered by name.
func All() ([]Mutant, error) { return load(files) }

func load(dir fs.FS) ([]Mutant, error) {
	paths, err := fs.Glob(dir, "*"+suffix)
	if err != nil {
		return nil, err
	}
	var all []Mutant
	for _, path := range paths {
		data, err := fs.ReadFile(dir, path)
		if err != nil {
			return nil, err
		}
		m, err := Parse(strings.TrimSuffix(path, suffix), string(data))
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

var (
	namePattern = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	rulePattern = regexp.MustCompile(`^(P[1-9][0-9]?|contract)$`)
	killPattern = regexp.MustCompile(`^\./[a-z0-9/]+ (Test|Fuzz|Example)[^ ]*( -[^ ]+)*$`)
	oldMarker   = regexp.MustCompile(`^-- old ([^ ]+\.go) --$`)
)

const newMarker = "-- new --"

// Parse returns the mutant in the text of a file.
func Parse(name, text string) (Mutant, error) {
	m := Mutant{Name: name}
	var into *string
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		var err error
		if old := oldMarker.FindStringSubmatch(line); old != nil {
			m.Edits = append(m.Edits, Edit{File: old[1]})
			into = &m.Edits[len(m.Edits)-1].Old
		} else if line == newMarker && len(m.Edits) > 0 {
			into = &m.Edits[len(m.Edits)-1].New
		} else if into != nil {
			*into += line + "\n"
		} else {
			err = m.header(line)
		}
		if err != nil {
			return Mutant{}, fmt.Errorf("mutant %s: line %d: %w", name, i+1, err)
		}
	}
	if err := m.check(); err != nil {
		return Mutant{}, fmt.Errorf("mutant %s: %w", name, err)
	}
	return m, nil
}

func (m *Mutant) header(line string) error {
	key, value, _ := strings.Cut(line, ":")
	value = strings.TrimSpace(value)
	switch {
	case key == "rule" && m.Rules == nil:
		m.Rules = strings.Split(value, ", ")
	case key == "why" && m.Why == "":
		m.Why = value
	case key == "kill" && killPattern.MatchString(value):
		words := strings.Fields(value)
		m.Kills = append(m.Kills, Kill{Package: words[0], Test: words[1], Flags: words[2:]})
	default:
		return fmt.Errorf("%q is no header line", line)
	}
	return nil
}

func (m *Mutant) check() error {
	switch {
	case !namePattern.MatchString(m.Name):
		return errors.New("the name is not of the form p18-release-by-name")
	case m.Rules == nil || m.Why == "" || m.Kills == nil || m.Edits == nil:
		return errors.New("rule, why, kill and at least one replacement are required")
	}
	for _, r := range m.Rules {
		if !rulePattern.MatchString(r) {
			return fmt.Errorf("rule %q is neither one of docs/protocol.md nor contract", r)
		}
	}
	for _, e := range m.Edits {
		if e.Old == "" || e.Old == e.New {
			return fmt.Errorf("a replacement in %s changes nothing", e.File)
		}
	}
	return nil
}
