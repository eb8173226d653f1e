package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// load says how a package's tests use the machine.
type load int

const (
	// waits: the tests mostly wait, so other packages run at the same time. They
	// start when the programs of those with a cluster, which take longest, are built
	// and, unless the runner overlaps them, no package computes any more.
	waits load = iota
	// computes: the tests keep the processors busy. No other process measures
	// meanwhile, but the others may still be built.
	computes
	// measures: the tests bound latencies from their first to their last. No other
	// process measures, computes or builds meanwhile.
	measures
)

// testcluster is the package that starts servers. A package whose tests import it, or a
// package below it, needs every server unless settings says otherwise.
const testcluster = "internal/testcluster"

// allServers are the servers that make server-NAME builds, in this order: the tests of
// Consul take longest.
var allServers = []string{"consul", "etcd"}

// setting is the knowledge of the runner about one package, or about a part of its
// tests, which is a job of its own.
type setting struct {
	path    string // relative to the module
	load    load
	servers []string // nil means that the imports decide
	cluster bool     // the tests keep a cluster of three servers all the while
	part    part
}

// part selects tests of a package by their names. The parts of a package must select
// each test once.
type part struct{ run, skip string }

// selects reports whether a test belongs to the part.
func (p part) selects(test string) bool {
	return (p.run == "" || regexp.MustCompile(p.run).MatchString(test)) &&
		(p.skip == "" || !regexp.MustCompile(p.skip).MatchString(test))
}

// The parts of the packages that would bound the whole run by their length.
const (
	suites  = "^TestConformance"
	clients = "^TestConformanceOfClients$"
)

// settings lists the packages in the order in which they should start. A package
// that is not listed starts after these, and waits.
var settings = []setting{
	// These compute. They are built first and run while the others are built.
	{path: "conformance", load: computes},      // breaks every rule of the suite, in virtual time
	{path: "memstore", load: computes},         // random walks, in virtual time
	{path: "dcs", load: computes},              // random walks, in virtual time
	{path: "dcs/attempt", load: computes},      // every interleaving, in virtual time
	{path: "internal/testrun", load: computes}, // builds a module of its own
	{path: "internal/repo", load: computes},    // lists the module's imports for ten systems
	// The longest ones start first because they bound the whole run. zookeeper's
	// servers come from a package of the system, raftstore's are its own test program.
	{path: "zookeeper", servers: []string{}, cluster: true, part: part{run: suites}},
	{path: "consul", servers: []string{"consul"}, cluster: true, part: part{run: suites}},
	{path: "raftstore", servers: []string{}, cluster: true, part: part{skip: clients}},
	{path: "etcd3", servers: []string{"etcd"}, cluster: true},
	{path: "raftstore", servers: []string{}, cluster: true, part: part{run: clients}},
	{path: "examples/failover", cluster: true},
	{path: "zookeeper", servers: []string{}, cluster: true, part: part{skip: suites}},
	{path: "consul", servers: []string{"consul"}, cluster: true, part: part{skip: suites}},
	{path: "internal/failover", servers: []string{"etcd"}, cluster: true},
	{path: "raftstore/internal/transport"},
	{path: "raftstore/internal/disk"},
	{path: testcluster},
	{path: "examples/leader", cluster: true},
	{path: "examples/vip"},
	{path: "examples/backend"},
	{path: "dcs/elector"},
	{path: "internal/interop", cluster: true}, // patronictl, which keeps a processor busy for half a second each time
	// Single figures of a few milliseconds, in tests of a few seconds.
	{path: "keepalive", load: measures},
	{path: "conformance/fault", load: measures},
}

// pkg is a package as go list describes it.
type pkg struct {
	ImportPath, Dir           string
	Module                    struct{ Path string }
	TestGoFiles, XTestGoFiles []string
	TestImports, XTestImports []string
}

// path returns the package's path relative to its module, "." for the root.
func (p pkg) path() string {
	if p.ImportPath == p.Module.Path {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, p.Module.Path+"/")
}

// arg returns the package as an argument of go test.
func (p pkg) arg() string {
	if p.path() == "." {
		return "."
	}
	return "./" + p.path()
}

// list returns the packages that patterns match and that have tests.
func list(ctx context.Context, dir string, patterns []string) ([]pkg, error) {
	args := append([]string{"list", "-json=ImportPath,Dir,Module,TestGoFiles,XTestGoFiles,TestImports,XTestImports"}, patterns...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // G204: the caller names the packages
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w\n%s", strings.Join(patterns, " "), err, strings.TrimSpace(stderr.String()))
	}
	var found []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no package that matches %s has tests", strings.Join(patterns, " "))
	}
	return found, nil
}

// plan returns the packages as jobs, in the order in which they should start.
func plan(packages []pkg) []*job {
	var jobs []*job
	add := func(p pkg, s setting) {
		j := &job{pkg: p, record: newRecord(), load: s.load, servers: s.servers, cluster: s.cluster, part: s.part}
		starts := func(path string) bool { return strings.HasPrefix(path+"/", p.Module.Path+"/"+testcluster+"/") }
		if j.servers == nil && slices.ContainsFunc(slices.Concat(p.TestImports, p.XTestImports, []string{p.ImportPath}), starts) {
			j.servers = allServers
		}
		if i := slices.IndexFunc(jobs, func(o *job) bool { return o.pkg.path() == p.path() }); i >= 0 {
			j.program = jobs[i]
		}
		jobs = append(jobs, j)
	}
	rest := slices.Clone(packages)
	for _, s := range settings {
		if i := slices.IndexFunc(packages, func(p pkg) bool { return p.path() == s.path }); i >= 0 {
			add(packages[i], s)
			rest = slices.DeleteFunc(rest, func(p pkg) bool { return p.path() == s.path })
		}
	}
	for _, p := range rest {
		add(p, setting{})
	}
	return jobs
}
