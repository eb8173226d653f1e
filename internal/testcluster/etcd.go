package testcluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Users of an etcd cluster with Security. Root has all rights, Suite may read and write
// below SuitePrefix, and Reader may only read there.
const (
	Root        = "root"
	Suite       = "suite"
	Reader      = "reader"
	SuitePrefix = "/holdfast/"
	Password    = "hunter2-do-not-log"
)

type etcd struct{ hasUsers bool }

func (*etcd) ports() map[string]int { return map[string]int{"client": 2379, "peer": 2380} }

func (*etcd) timeout(o Options) time.Duration {
	if o.Election > 0 {
		return o.Election
	}
	return 500 * time.Millisecond
}

// election: a follower waits up to twice the timeout before it becomes a candidate.
func (e *etcd) election(o Options) time.Duration { return 2 * e.timeout(o) }

func (e *etcd) command(ctx context.Context, c *Cluster, s *Server, join bool) (*exec.Cmd, error) {
	path, err := program(Etcd, c.o.Version)
	if err != nil {
		return nil, err
	}
	scheme, state := "http", "new"
	if c.ca != nil {
		scheme = "https"
	}
	if join {
		state = "existing"
	}
	var members []string
	for _, m := range c.Servers() {
		members = append(members, fmt.Sprintf("%s=%s://%s", m.name, scheme, m.addr("peer")))
	}
	args := []string{
		"--name", s.name, "--data-dir", s.dir + "/data", "--log-level", "warn",
		"--listen-client-urls", scheme + "://" + s.Direct(),
		"--advertise-client-urls", scheme + "://" + s.Endpoint(),
		"--listen-peer-urls", scheme + "://" + s.addr("peer"),
		"--initial-advertise-peer-urls", scheme + "://" + s.addr("peer"),
		"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", state,
		"--initial-cluster-token", "holdfast-test",
		// Membership may change at once, and not only after five seconds without a failure.
		"--strict-reconfig-check=false",
		"--heartbeat-interval", fmt.Sprint(e.timeout(c.o).Milliseconds() / 10),
		"--election-timeout", fmt.Sprint(e.timeout(c.o).Milliseconds()),
	}
	if c.ca != nil {
		cert := c.ca.Server()
		for _, side := range []string{"", "peer-"} {
			args = append(args, "--"+side+"cert-file", cert.Cert, "--"+side+"key-file", cert.Key,
				"--"+side+"trusted-ca-file", c.ca.File(), "--"+side+"client-cert-auth")
		}
		args = append(args, "--auth-token", "simple", "--auth-token-ttl", "2",
			// The cheapest hash. At the default cost a login takes 100 ms of processor
			// time, and longer than the budget of a call on a busy machine.
			"--bcrypt-cost", "4")
	}
	return s.host.Command(ctx, path, append(args, c.o.Flags...)...), nil
}

// conn returns a connection to one server, which does not use the proxy.
func (*etcd) conn(c *Cluster, s *Server) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.ca != nil {
		conf, err := c.ca.Client().Config(c.ca)
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(conf)
	}
	return grpc.NewClient("passthrough:///"+s.Direct(), grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
}

func (e *etcd) ready(ctx context.Context, c *Cluster, s *Server) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	conn, err := e.conn(c, s)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return false, err
	}
	if len(status.Errors) > 0 {
		return false, errors.New(strings.Join(status.Errors, "; "))
	}
	if status.Leader == 0 || status.IsLearner {
		return false, errors.New("the server knows no leader")
	}
	if c.ca == nil { // with Security a login would be needed
		if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready")}); err != nil {
			return false, err
		}
	}
	return status.Leader == status.Header.MemberId, nil
}

// Admin returns a client of an etcd cluster with all rights, which uses all servers and
// not their proxies. The caller must close it.
func (c *Cluster) Admin(ctx context.Context) (*clientv3.Client, error) {
	return c.admin(ctx, c.Servers())
}

func (c *Cluster) admin(ctx context.Context, servers []*Server) (*clientv3.Client, error) {
	conf := clientv3.Config{Context: ctx, Logger: zap.NewNop(), DialTimeout: 5 * time.Second}
	for _, s := range servers {
		conf.Endpoints = append(conf.Endpoints, s.Direct())
	}
	if c.ca != nil {
		var err error
		if conf.TLS, err = c.ca.Client().Config(c.ca); err != nil {
			return nil, err
		}
		if c.authenticated() {
			conf.Username, conf.Password = Root, Password
		}
	}
	return clientv3.New(conf)
}

func (c *Cluster) authenticated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.drv.(*etcd)
	return ok && e.hasUsers
}

func (e *etcd) started(ctx context.Context, c *Cluster) error {
	if c.ca == nil {
		return nil
	}
	admin, err := c.Admin(ctx)
	if err != nil {
		return err
	}
	defer admin.Close()
	var faults []error
	do := func(_ any, err error) { faults = append(faults, err) }
	end := clientv3.GetPrefixRangeEnd(SuitePrefix)
	for role, right := range map[string]clientv3.PermissionType{Suite: clientv3.PermissionType(clientv3.PermReadWrite), Reader: clientv3.PermissionType(clientv3.PermRead)} {
		do(admin.RoleAdd(ctx, role))
		do(admin.RoleGrantPermission(ctx, role, SuitePrefix, end, right))
		do(admin.UserAdd(ctx, role, Password))
		do(admin.UserGrantRole(ctx, role, role))
	}
	do(admin.UserAdd(ctx, Root, Password))
	do(admin.RoleAdd(ctx, Root))
	do(admin.UserGrantRole(ctx, Root, Root))
	do(admin.AuthEnable(ctx))
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("testcluster: creating the users of etcd: %w", err)
	}
	c.mu.Lock()
	e.hasUsers = true
	c.mu.Unlock()
	return nil
}

// leave removes s through another server, because s could not report the success. If s
// leads, the leadership is transferred first.
func (e *etcd) leave(ctx context.Context, c *Cluster, s *Server) error {
	admin, err := c.admin(ctx, slices.DeleteFunc(c.Servers(), func(o *Server) bool { return o == s }))
	if err != nil {
		return err
	}
	defer admin.Close()
	list, err := admin.MemberList(ctx)
	if err != nil {
		return err
	}
	ids := map[string]uint64{}
	for _, m := range list.Members {
		ids[m.Name] = m.ID
	}
	for _, o := range c.Servers() {
		if leads, err := e.ready(ctx, c, s); err != nil || !leads || o == s {
			continue
		}
		if err := e.moveLeader(ctx, c, s, ids[o.name]); err != nil {
			return err
		}
	}
	return settled(ctx, func() error {
		_, err := admin.MemberRemove(ctx, ids[s.name])
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil // an earlier attempt has succeeded
		}
		return err
	})
}

func (e *etcd) moveLeader(ctx context.Context, c *Cluster, from *Server, to uint64) error {
	conn, err := e.conn(c, from)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = pb.NewMaintenanceClient(conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: to})
	return err
}

func (e *etcd) join(ctx context.Context, c *Cluster, s *Server) error {
	admin, err := c.Admin(ctx)
	if err != nil {
		return err
	}
	defer admin.Close()
	scheme := "http"
	if c.ca != nil {
		scheme = "https"
	}
	return settled(ctx, func() error {
		_, err := admin.MemberAdd(ctx, []string{scheme + "://" + s.addr("peer")})
		if errors.Is(err, rpctypes.ErrPeerURLExist) {
			return nil // an earlier attempt has succeeded
		}
		return err
	})
}

// welcome writes a key at intervals until s, which has just been started, serves. An etcd
// 3.7.3 that joins with a snapshot of an index above 5000 proposes nothing, its own name
// included, before it has applied an entry from after the snapshot. An idle cluster has no
// such entry.
func (e *etcd) welcome(ctx context.Context, c *Cluster, s *Server) error {
	admin, err := c.admin(ctx, slices.DeleteFunc(c.Servers(), func(o *Server) bool { return o == s }))
	if err != nil {
		return err
	}
	defer admin.Close()
	for {
		if _, err := e.ready(ctx, c, s); err == nil {
			return nil
		}
		one, cancel := context.WithTimeout(ctx, moment)
		_, err := admin.Put(one, "/testcluster/welcome", s.name)
		cancel()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("testcluster: server %s does not join: %w", s.name, errors.Join(ctx.Err(), err))
		}
	}
}

// settled calls change until it succeeds. etcd refuses a change of the membership until
// its members have been connected for some seconds, and while a new leader is starting.
func settled(ctx context.Context, change func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return until(ctx, 100*time.Millisecond, change)
}
