package repo_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
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

// makeValue returns the output of tools/makevalue.
func makeValue(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"-C", "tools", "run", "./makevalue"}, args...)...)
	cmd.Env = append(os.Environ(), "GOPROXY=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	return string(out)
}

func TestMakeValues(t *testing.T) {
	functions := makeValue(t, "functions", "..", "Fuzz")
	if !strings.Contains(functions, "./dcs FuzzCheckKey\n./dcs FuzzParseURL\n") {
		t.Errorf("the fuzz targets of ./dcs are missing in\n%s", functions)
	}
	packages := strings.Fields(makeValue(t, "packages", "..", "Benchmark"))
	if !slices.Contains(packages, "./dcs") || !slices.IsSorted(packages) || len(slices.Compact(packages)) != len(packages) {
		t.Errorf("packages with benchmarks: %q", packages)
	}
	version := makeValue(t, "version", "../testservers/etcd/go.mod", "go.etcd.io/etcd/server/v3")
	if !strings.Contains(read(t, "testservers/etcd/go.mod"), "\nrequire go.etcd.io/etcd/server/v3 "+strings.TrimSpace(version)+" ") {
		t.Errorf("version of etcd: %q", version)
	}
}
