package main

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// samplePackage returns a package of a module, with the imports of its tests.
func samplePackage(path string, imports ...string) pkg {
	p := pkg{ImportPath: "example.test/sample/" + path, XTestImports: imports}
	if path == "." {
		p.ImportPath = "example.test/sample"
	}
	p.Module.Path = "example.test/sample"
	return p
}

func TestPlan(t *testing.T) {
	const servers = "example.test/sample/internal/testcluster"
	jobs := plan([]pkg{
		samplePackage("."), samplePackage("internal/repo"), samplePackage("added/later"), samplePackage("added/withservers", servers), samplePackage("added/withadapter", servers+"/harness"), samplePackage("consul", servers),
		samplePackage("etcd3", servers), samplePackage("keepalive"), samplePackage("zookeeper", servers), samplePackage(testcluster),
	})
	var order []string
	for _, j := range jobs {
		order = append(order, j.pkg.arg())
	}
	require.Equal(t, []string{
		"./internal/repo", "./zookeeper", "./consul", "./etcd3", "./zookeeper", "./consul", "./internal/testcluster", "./keepalive", ".", "./added/later", "./added/withservers", "./added/withadapter",
	}, order)
	byPath := map[string]*job{}
	for _, j := range jobs {
		byPath[j.pkg.path()] = j
	}
	require.Equal(t, []string{"consul"}, byPath["consul"].servers)
	require.Equal(t, []string{"etcd"}, byPath["etcd3"].servers)
	require.Empty(t, byPath["zookeeper"].servers)
	require.Equal(t, allServers, byPath[testcluster].servers)
	require.Equal(t, allServers, byPath["added/withservers"].servers)
	require.Equal(t, allServers, byPath["added/withadapter"].servers)
	require.Empty(t, byPath["added/later"].servers)
	require.Equal(t, waits, byPath["added/later"].load)
	require.Equal(t, computes, byPath["internal/repo"].load)
	require.Equal(t, measures, byPath["keepalive"].load)
	require.True(t, byPath["etcd3"].cluster)
	require.False(t, byPath["keepalive"].cluster)
}

// No more packages with a cluster run at the same time than the limit says.
func TestClustersTakeTurns(t *testing.T) {
	r := &runner{earlyBuilt: true, servers: map[string]error{}}
	for range 3 {
		r.jobs = append(r.jobs, &job{cluster: true, state: toRun})
	}
	other := &job{state: toRun}
	r.jobs = append(r.jobs, other)
	for _, c := range []struct {
		limit capacity
		want  *job
	}{
		{capacity{lanes: 3, clusters: 2}, r.jobs[0]},
		{capacity{lanes: 3, clusters: 2}, r.jobs[1]},
		{capacity{lanes: 2, clusters: 3}, nil},
		{capacity{lanes: 3, clusters: 2}, other},
		{capacity{lanes: 4, clusters: 2}, nil},
		{capacity{lanes: 4, clusters: 3}, r.jobs[2]},
	} {
		next := r.next(t.Context(), c.limit)
		require.Same(t, c.want, next, "%+v", c.limit)
		if next != nil {
			next.state = running
		}
	}
}

// Tests that wait start once the early programs are built and nothing computes.
// Those that measure start once everything is built.
func TestTestsThatWaitStartEarly(t *testing.T) {
	busy := &job{load: computes, state: running}
	r := &runner{jobs: []*job{busy}, servers: map[string]error{}}
	ready := func(l load) bool {
		ok, err := r.ready(&job{load: l, state: toRun})
		require.NoError(t, err)
		return ok
	}
	require.True(t, ready(computes))
	require.False(t, ready(waits))
	r.earlyBuilt = true
	require.False(t, ready(waits), "a package computes")
	busy.state = over
	require.True(t, ready(waits))
	require.False(t, ready(measures))
	r.built = true
	require.True(t, ready(measures))
}

// On an idle machine the packages with a cluster start first, and computing delays
// nothing.
func TestComputingOverlaps(t *testing.T) {
	r := &runner{overlap: true, earlyBuilt: true, jobs: []*job{{load: computes, state: running}}}
	ok, err := r.ready(&job{load: waits, state: toRun})
	require.NoError(t, err)
	require.True(t, ok)
	require.False(t, r.early(r.jobs[0]))
	require.True(t, r.early(&job{cluster: true}))
	r.overlap = false
	require.True(t, r.early(r.jobs[0]))
}

// Each setting is of a package that has tests, and the parts of a package select each
// test once.
func TestSettingsSelectEachTestOnce(t *testing.T) {
	packages, err := list(t.Context(), "../..", []string{"./..."})
	require.NoError(t, err)
	parts := map[string][]part{}
	for _, s := range settings {
		require.True(t, slices.ContainsFunc(packages, func(p pkg) bool { return p.path() == s.path }), "no package with tests: %s", s.path)
		parts[s.path] = append(parts[s.path], s.part)
	}
	for path, of := range parts {
		for _, test := range []string{"TestConformance", "TestConformanceOfClients", "TestOther"} {
			selected := slices.DeleteFunc(slices.Clone(of), func(p part) bool { return !p.selects(test) })
			require.Len(t, selected, 1, "%s of %s", test, path)
		}
	}
}

// The parts of a package are jobs with one test program.
func TestPartsShareAProgram(t *testing.T) {
	jobs := plan([]pkg{samplePackage("zookeeper")})
	require.Len(t, jobs, 2)
	require.Nil(t, jobs[0].program)
	require.Same(t, jobs[0], jobs[1].program)
	require.Equal(t, "zookeeper TestConformance", jobs[0].name())
	require.Equal(t, "zookeeper without TestConformance", jobs[1].name())
	r := &runner{jobs: jobs, out: &printer{w: io.Discard}}
	jobs[0].binary = "/built"
	r.programBuilt(t.Context(), jobs[0], nil)
	require.Equal(t, "/built", jobs[1].binary)
	require.Equal(t, toRun, jobs[1].state)
	r.programBuilt(t.Context(), jobs[0], errors.New("does not compile"))
	require.Equal(t, over, jobs[1].state)
}

func TestListReportsWhatGoSays(t *testing.T) {
	_, err := list(t.Context(), ".", []string{"./missing"})
	require.ErrorContains(t, err, "missing")
}
