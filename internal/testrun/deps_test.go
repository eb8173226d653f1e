package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
)

const depsScript = "../../tools/deps.sh"

// runDeps runs the script where the commands are those given, as shell scripts,
// and no other.
func runDeps(t *testing.T, commands map[string]string) (output string, err error) {
	t.Helper()
	bash, lookErr := exec.LookPath("bash")
	if lookErr != nil {
		t.Skip(lookErr)
	}
	dir := t.TempDir()
	for name, text := range commands {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700))
	}
	cmd := exec.CommandContext(t.Context(), bash, depsScript)
	cmd.Env = []string{"PATH=" + dir}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// machine is one with every command that the tests need, root, and a package
// manager that prints its arguments.
func machine() map[string]string {
	return map[string]string{"ip": "", "java": "", "gcc": "", "cc": "", "pgrep": "", "patronictl": "", "id": "echo 0", "apt-get": `echo "apt-get $*"`}
}

func TestDepsInstallsWhatIsMissing(t *testing.T) {
	m := machine()
	delete(m, "ip")
	out, err := runDeps(t, m)
	require.NoError(t, err, out)
	require.Regexp(t, `(?m)^installing iproute2`, out)
	require.Regexp(t, `(?m)^apt-get install .* iproute2`, out)
}

func TestDepsFailsWithThePackageManagersWords(t *testing.T) {
	m := machine()
	delete(m, "pgrep")
	m["apt-get"] = `case "$1" in install) echo "E: Unable to locate package procps" >&2; exit 100;; esac`
	out, err := runDeps(t, m)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 100, exit.ExitCode())
	require.Contains(t, out, "E: Unable to locate package procps")
}

func TestDepsNamesTheTestsThatItCosts(t *testing.T) {
	for name, change := range map[string]func(m map[string]string){
		"not root":         func(m map[string]string) { m["id"] = "echo 1000" },
		"no apt-get":       func(m map[string]string) { delete(m, "apt-get") },
		"neither of these": func(m map[string]string) { m["id"] = "echo 1000"; delete(m, "apt-get") },
	} {
		t.Run(name, func(t *testing.T) {
			m := machine()
			delete(m, "ip")
			change(m)
			out, err := runDeps(t, m)
			require.NoError(t, err, "a missing package fails the tests, not make deps")
			require.Regexp(t, `(?m)^cannot install iproute2`, out)
			require.Contains(t, out, "./conformance/fault TestNetworkCuts")
			require.NotContains(t, out, "apt-get install")
		})
	}
}

// Without root nothing is missing, and yet some tests cannot run.
func TestDepsWithoutRoot(t *testing.T) {
	m := machine()
	m["id"] = "echo 1000"
	out, err := runDeps(t, m)
	require.NoError(t, err, out)
	require.Contains(t, out, "root, for network namespaces: Rotate/Blackholed")
}

func TestDepsNamesTestsThatExist(t *testing.T) {
	script, err := os.ReadFile(depsScript)
	require.NoError(t, err)
	repository := os.DirFS("../..")
	var sources bytes.Buffer
	require.NoError(t, fs.WalkDir(repository, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := fs.ReadFile(repository, path)
		sources.Write(text)
		return err
	}))
	tests := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(script), -1)
	require.NotEmpty(t, tests)
	for _, name := range tests {
		require.Truef(t, strings.Contains(sources.String(), "\nfunc "+name+"(t *testing.T)"), "no test: %s", name)
	}
	cases := regexp.MustCompile(`\b(Rotate|Clock)/\w+`).FindAllString(string(script), -1)
	require.NotEmpty(t, cases)
	for _, name := range cases {
		require.Truef(t, slices.ContainsFunc(conformance.Cases(), func(c conformance.Case) bool { return c.Name == name }), "no case: %s", name)
	}
}
