package repo_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The targets that CONTRIBUTING promises are those of make, and a change must pass
// the ones that it names.
func TestMakeTargets(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "make", "--no-print-directory").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		incomplete(t, "make")
	}
	if err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	contributing := read(t, "CONTRIBUTING.md")
	for _, target := range []string{"help", "check", "deps", "docs", "test", "mutants", "test-slow", "bench", "fuzz", "lint", "vuln"} {
		if !regexp.MustCompile(`(?m)^\s+make ` + target + `\s+\S`).Match(out) {
			t.Errorf("make help does not list %s", target)
		}
		if target != "help" && !strings.Contains(contributing, "`make "+target+"`") {
			t.Errorf("CONTRIBUTING.md does not explain make %s", target)
		}
	}
	if script := read(t, ".ci/run"); !strings.Contains(script, "\nexec make check test mutants\n") {
		t.Error(".ci/run does not run make check test mutants")
	}
	if info, err := os.Stat(".ci/run"); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf(".ci/run cannot be executed: %v", err)
	}
}
