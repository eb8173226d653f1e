#!/usr/bin/env bash
# Installs the system packages that the tests need, which takes root and apt-get.
# Where that is not possible it lists the tests that this costs.
set -euo pipefail

missing=() # packages
lost=()    # the missing things, each with the tests that need it

network='Rotate/Blackholed of ./etcd3 TestConformance;
    Rotate/Blackholed, Rotate/HalfHealthy and Rotate/AllReplaced of ./consul and ./zookeeper TestConformance;
    ./etcd3 TestStandInAnswersAsTheRealOne; ./conformance/fault TestNetworkCuts, TestNetworkCommand; ./internal/testcluster TestEtcdPartitionIsHalfHealthy;
    ./keepalive TestSilentPeerIsNoticed, TestReportSaysWhatCannotBeBounded'

if ! command -v ip >/dev/null; then
	missing+=(iproute2)
	lost+=("ip(8), for network namespaces: $network")
fi
if ! [ -e /usr/share/java/zookeeper.jar ] || ! command -v java >/dev/null; then
	missing+=(zookeeper)
	lost+=('ZooKeeper: ./zookeeper TestConformance and the tests in server_test.go;
    ./internal/testcluster TestKindsStartSurviveAndLeaveNothing, TestZooKeeperClocksStep;
    ./examples/failover TestFailoverOnZooKeeper; ./examples/leader TestLeaderOnZooKeeper')
fi
if ! command -v gcc >/dev/null || ! command -v cc >/dev/null || ! [ -e /usr/include/stdlib.h ]; then
	missing+=(gcc libc6-dev)
	lost+=('a C compiler: every test, because the race detector needs one; without the race detector
    Clock/Stepped of ./zookeeper TestConformance, and ./internal/testcluster TestZooKeeperClocksStep')
fi
if ! command -v pgrep >/dev/null; then
	missing+=(procps)
	lost+=('pgrep(1): ./internal/testcluster TestKindsStartSurviveAndLeaveNothing')
fi
# The distribution's Python runs patronictl, with its own modules.
modules=/usr/lib/python3/dist-packages
if ! command -v patronictl >/dev/null || ! [ -d $modules/etcd ] || ! [ -d $modules/consul ] || ! [ -d $modules/kazoo ]; then
	missing+=(patroni python3-etcd python3-consul python3-kazoo)
	lost+=('Patroni and its clients of etcd, Consul and ZooKeeper: ./internal/interop TestRecords, TestElectorObeys')
fi

root=yes
if [ "$(id -u)" != 0 ]; then
	root=no
	lost+=("root, for network namespaces: $network")
fi

install() {
	echo "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq </dev/null || true # a package may be known all the same
	apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null
}

if [ ${#missing[@]} != 0 ]; then
	if [ $root = yes ] && command -v apt-get >/dev/null; then
		install
		exit
	fi
	echo "cannot install ${missing[*]}: this takes root and apt-get"
fi
if [ ${#lost[@]} != 0 ]; then
	echo "tests that fail, or do not apply, because something is missing:"
	printf '  %s\n' "${lost[@]}"
fi
