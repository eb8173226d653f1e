package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStatus(t *testing.T) {
	runs := &job{pkg: samplePackage("raftstore"), record: newRecord(), state: running}
	runs.record.total = 12
	runs.record.add(event{Action: "run", Test: "TestConformance"})
	runs.record.add(event{Action: "run", Test: "TestConformance/Rotate/Frozen"})
	runs.record.test("TestConformance/Rotate/Frozen").since = time.Now().Add(-65 * time.Second)
	needs := &job{pkg: samplePackage("consul"), servers: []string{"consul"}, state: toRun}
	r := &runner{
		begin: time.Now().Add(-200 * time.Second), servers: map[string]error{"etcd": nil},
		jobs: []*job{needs, {pkg: samplePackage("dcs"), state: over}, runs, {pkg: samplePackage("etcd3"), servers: []string{"etcd"}, state: toRun}},
	}
	require.Equal(t, "3:20 1 of 4 jobs | raftstore 0/12 Rotate/Frozen 1:05 | consul waits for the server consul", r.status())
	r.jobs = append(r.jobs, &job{pkg: samplePackage("keepalive"), state: toBuild})
	r.servers["consul"] = nil
	require.Equal(t, "3:20 1 of 5 jobs | raftstore 0/12 Rotate/Frozen 1:05 | keepalive is being built", r.status())
}

func TestPrinter(t *testing.T) {
	var out bytes.Buffer
	terminal := printer{w: &out, terminal: true}
	terminal.progress("1 of 2")
	terminal.progress("2 of 2")
	terminal.line("ok")
	terminal.line("done")
	require.Equal(t, "1 of 2\r\x1b[J2 of 2\r\x1b[Jok\ndone\n", out.String())
	out.Reset()
	log := printer{w: &out}
	log.progress("1 of 2")
	log.line("ok")
	require.Equal(t, "1 of 2\nok\n", out.String())
}
