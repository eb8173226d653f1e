package repo_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestGoMod(t *testing.T) {
	mod := read(t, "go.mod")
	if line := regexp.MustCompile(`(?m)^go (.+)$`).FindStringSubmatch(mod); line == nil || line[1] != "1.26.0" {
		t.Errorf("go.mod's go line is %q, want 1.26.0: raising it forces every user, so it takes a decision", line)
	}
	// Users get neither: a replace hides that the module does not build for
	// them, a toolchain line makes theirs download another one.
	if found := regexp.MustCompile(`(?m)^(toolchain|replace)\b.*$`).FindAllString(mod, -1); found != nil {
		t.Errorf("go.mod has %q", found)
	}
}

// goPackage is one package as `go list -json` describes it.
type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// list returns the packages that patterns match and all they depend on, as
// they are built for goos. Test files do not count.
func list(t *testing.T, goos, goarch string, patterns ...string) map[string]goPackage {
	t.Helper()
	args := append([]string{"list", "-e", "-deps", "-json=ImportPath,Standard,Imports"}, patterns...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if goos != "" {
		cmd.Env = append(cmd.Env, "GOOS="+goos, "GOARCH="+goarch)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	found := make(map[string]goPackage)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		found[p.ImportPath] = p
	}
}

// reach returns everything that the package at path depends on.
func reach(packages map[string]goPackage, path string) []string {
	seen := map[string]bool{path: true}
	for todo := []string{path}; len(todo) > 0; {
		next := packages[todo[0]]
		todo = todo[1:]
		for _, imp := range next.Imports {
			if !seen[imp] {
				seen[imp] = true
				todo = append(todo, imp)
			}
		}
	}
	delete(seen, path)
	var all []string
	for imp := range seen {
		all = append(all, imp)
	}
	slices.Sort(all)
	return all
}

// in reports whether path is one of roots or lies below one.
func in(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

// own returns the import paths of packages of this module.
func own(names ...string) []string {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = module + "/" + name
	}
	return paths
}

// The contract and keepalive stand on the standard library and golang.org/x/sys,
// with all they pull in, on every system they are written for. depguard checks
// direct imports only, and only the files of the system that it runs on.
func TestLightPackagesStayLight(t *testing.T) {
	systems := []string{"linux", "darwin", "freebsd", "netbsd", "openbsd", "dragonfly", "windows", "illumos", "solaris", "aix"}
	allowed := map[string][]string{
		"dcs":       append(own("dcs"), "golang.org/x/sys"),
		"keepalive": append(own("keepalive"), "golang.org/x/sys"),
	}
	for _, goos := range systems {
		goarch := "amd64"
		if goos == "aix" {
			goarch = "ppc64"
		}
		t.Run(goos, func(t *testing.T) {
			packages := list(t, goos, goarch, "./dcs/...", "./keepalive/...")
			for root, may := range allowed {
				if _, ok := packages[module+"/"+root]; !ok {
					incomplete(t, root)
				}
				for path := range packages {
					if !in(path, module+"/"+root) {
						continue
					}
					for _, dep := range reach(packages, path) {
						if !packages[dep].Standard && !in(dep, may...) {
							t.Errorf("%s depends on %s", path, dep)
						}
					}
				}
			}
		})
	}
}

func TestArrowsPointDown(t *testing.T) {
	above := own("examples", "cmd", "internal/docgen")
	suite := own("conformance")
	testcluster := own("internal/testcluster")
	packages := list(t, "", "", "./...")
	backends := backends(packages)
	for _, name := range []string{"dcs", "dcs/attempt", "keepalive", "memstore", "raftstore", "etcd3", "consul", "zookeeper", "conformance", "conformance/fault", "internal/endpoint", "internal/backend", "internal/watchcache", "internal/testcluster", "examples/failover", "examples/leader", "examples/vip"} {
		if _, ok := packages[module+"/"+name]; !ok {
			incomplete(t, name)
		}
	}
	for path, p := range packages {
		if !in(path, module) {
			continue
		}
		t.Run(strings.TrimPrefix(path, module+"/"), func(t *testing.T) {
			for _, dep := range reach(packages, path) {
				switch {
				case in(dep, above...) && !in(path, above...):
					t.Errorf("depends on %s", dep)
				case in(dep, suite...) && !in(path, append(append(above, suite...), testcluster...)...):
					t.Errorf("depends on the suite, %s", dep)
				case in(dep, testcluster...) && !in(path, testcluster...):
					t.Errorf("depends on the servers for tests, %s", dep)
				case in(dep, backends...) && !in(path, above...) && !sameBackend(backends, path, dep):
					t.Errorf("depends on the backend %s", dep)
				}
			}
			mayTest := in(path, append(suite, own("internal/bubble", "internal/testcluster")...)...)
			if !mayTest && slices.ContainsFunc(p.Imports, func(imp string) bool { return in(imp, "testing") }) {
				t.Error("imports testing outside of tests")
			}
		})
	}
	// The suite's own imports only; the dependencies of these are theirs.
	may := append(own("conformance", "dcs", "keepalive", "internal"),
		"golang.org/x/sys", "github.com/stretchr/testify", "github.com/anishathalye/porcupine")
	for path, p := range packages {
		for _, imp := range p.Imports {
			if in(path, suite...) && !packages[imp].Standard && !in(imp, may...) {
				t.Errorf("%s imports %s", path, imp)
			}
		}
	}
}

func sameBackend(backends []string, a, b string) bool {
	return slices.ContainsFunc(backends, func(root string) bool { return in(a, root) && in(b, root) })
}
