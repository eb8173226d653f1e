package mutants

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// overlay writes m's files below work and returns the path of the file that
// describes them to the go command.
func (m Mutant) overlay(root, work string) (string, error) {
	changed, err := m.Apply(root)
	if err != nil {
		return "", err
	}
	return writeOverlay(root, work, changed)
}

// writeOverlay is overlay for changed files of the module at root.
func writeOverlay(root, work string, changed map[string]string) (string, error) {
	replace := make(map[string]string)
	for file, source := range changed {
		path := filepath.Join(work, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(file))] = path
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(work, "overlay.json")
	return path, os.WriteFile(path, b, 0o600)
}

// binary is a test binary and the directory that it runs in.
type binary struct{ path, dir string }

// build builds the test binary of pkg, with an overlay unless that is empty.
func (r *Runner) build(ctx context.Context, work, pkg, overlay string) (binary, error) {
	b := binary{
		path: filepath.Join(work, strings.ReplaceAll(strings.TrimPrefix(pkg, "./"), "/", "-")+".test"),
		dir:  filepath.Join(r.Root, filepath.FromSlash(pkg)),
	}
	// The time goes into compiling: nothing is optimised, in this module.
	args := []string{"test", "-c", "-vet=off", "-gcflags=./...=-N -l -dwarf=false", "-ldflags=-s -w", "-o", b.path}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...) //nolint:gosec // G204: the arguments are the mutant's own
	cmd.Dir = r.Root
	// The compiler runs for two seconds, and would collect garbage for a tenth of
	// them.
	cmd.Env = append(os.Environ(), "GOGC=off", "GOTMPDIR="+r.work)
	r.building <- struct{}{}
	defer func() { <-r.building }()
	if out, err := cmd.CombinedOutput(); err != nil {
		return binary{}, fmt.Errorf("%s does not compile: %w\n%s", pkg, err, out)
	}
	return b, nil
}

// output is the output of a test binary.
type output struct {
	text   string
	exited int
}

// test runs tests, which together have grouped, on a mutant that was built combined
// with others, or on none.
func (r *Runner) test(ctx context.Context, b binary, mutant string, tests []Kill) (output, error) {
	args := append([]string{"-test.v", "-test.timeout=" + r.Timeout.String(), "-test.run=" + pattern(tests)}, tests[0].Flags...)
	cmd := exec.CommandContext(ctx, b.path, args...) //nolint:gosec // G204: it was built here
	cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "TMPDIR="+r.work, chosenBy+"="+mutant)
	text, err := cmd.CombinedOutput()
	out := output{text: string(text)}
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		out.exited = e.ExitCode()
	}
	return out, err
}

// pattern selects tests by name. For several it may select others too, where
// the elements of their names exist in other combinations.
func pattern(tests []Kill) string {
	var levels [][]string
	for _, k := range tests {
		for i, name := range strings.Split(k.Test, "/") {
			if i == len(levels) {
				levels = append(levels, nil)
			}
			if quoted := regexp.QuoteMeta(name); !slices.Contains(levels[i], quoted) {
				levels[i] = append(levels[i], quoted)
			}
		}
	}
	parts := make([]string, len(levels))
	for i, names := range levels {
		parts[i] = "^(" + strings.Join(names, "|") + ")$"
	}
	return strings.Join(parts, "/")
}

func (o output) passed(test string) bool { return o.verdict("PASS", test) }

// killed reports whether test failed in the ordinary way. A binary that panics,
// runs into its time limit or exits exits with another status than 1: that is
// not counted, because any test could have been the cause.
func (o output) killed(test string) bool { return o.exited == 1 && o.verdict("FAIL", test) }

func (o output) verdict(verdict, test string) bool {
	return regexp.MustCompile(`(?m)^ *--- ` + verdict + `: ` + regexp.QuoteMeta(test) + ` \(`).MatchString(o.text)
}

// tail returns the part of an output that explains an error: the lines that follow
// the first panic, or the last ones.
func tail(o output) string {
	lines := strings.Split(strings.TrimSpace(o.text), "\n")
	from := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "panic: ") })
	if from < 0 {
		from = max(0, len(lines)-20)
	}
	return "\t" + strings.Join(lines[from:min(from+20, len(lines))], "\n\t")
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
