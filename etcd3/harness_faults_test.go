package etcd3

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/holdfast-dcs/holdfast/conformance"
)

// A faultInjector injects faults into the calls of a client.
type faultInjector struct {
	conformance.FaultInjector
	root     string
	refusing *sync.Map // of the suite
}

func (t *faultInjector) options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(t.unary), grpc.WithChainStreamInterceptor(t.stream)}
}

// unary injects faults into every call that is one request.
func (t *faultInjector) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := t.refusal(cc); err != nil {
		leave(opts)
		return err
	}
	r, ok := t.describe(ctx, method, req)
	if !ok {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	var invoked atomic.Bool
	err := t.Pass(ctx, r, func(now context.Context) error {
		if now != ctx { // the sender has given up the request, and it still arrives
			return invoke(now, method, req, proto.Clone(reply.(proto.Message)), cc) // the options belong to the sender
		}
		invoked.Store(true)
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	if !invoked.Load() {
		leave(opts)
	}
	return err
}

// refusal returns the error with which the server of a connection refuses all requests, or
// nil.
func (t *faultInjector) refusal(cc *grpc.ClientConn) error {
	if err, ok := t.refusing.Load(strings.TrimPrefix(cc.Target(), "passthrough:///")); ok {
		return err.(error)
	}
	return nil
}

// leave marks a request that is refused, held back or lost as sent.
func leave(opts []grpc.CallOption) {
	for _, o := range opts {
		if to, isPeer := o.(grpc.PeerCallOption); isPeer {
			to.PeerAddr.Addr = &net.TCPAddr{}
		}
	}
}

// stream injects faults into the streams of renewals and the watch.
func (t *faultInjector) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := t.refusal(cc); err != nil {
		return nil, err
	}
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &faultyStream{ClientStream: s, t: t, method: method}, nil
}

// A faultyStream injects faults into the messages of a stream. A lost message makes the
// stream silent from then on, like a connection that loses bytes.
type faultyStream struct {
	grpc.ClientStream
	t      *faultInjector
	method string

	mu     sync.Mutex
	silent bool
	queue  []any
	delay  []conformance.Action // for the next answers
}

func (s *faultyStream) SendMsg(m any) error {
	r, ok := s.t.describe(s.Context(), s.method, m)
	if !ok {
		return s.ClientStream.SendMsg(m)
	}
	f := s.t.Judge(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = append(s.delay, f)
	if f.LoseAnswer {
		s.silent = true
		return s.ClientStream.SendMsg(m)
	}
	if s.silent = s.silent || f.LoseRequest; s.silent {
		return nil
	}
	if !f.HoldsRequest() && len(s.queue) == 0 {
		return s.ClientStream.SendMsg(m)
	}
	if s.queue = append(s.queue, proto.Clone(m.(proto.Message))); len(s.queue) == 1 {
		go s.release(f)
	}
	return nil
}

// release sends the messages that were held back, in order, once they are released.
func (s *faultyStream) release(f conformance.Action) {
	if f.AwaitRequest(s.Context()) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.queue {
		if s.ClientStream.SendMsg(m) != nil {
			return
		}
	}
	s.queue = nil
}

func (s *faultyStream) RecvMsg(m any) error {
	for {
		if err := s.ClientStream.RecvMsg(m); err != nil {
			return err
		}
		s.mu.Lock()
		silent, delay := s.silent, s.delay
		s.mu.Unlock()
		if silent {
			proto.Reset(m.(proto.Message))
			continue
		}
		for _, f := range delay {
			if err := f.AwaitAnswer(s.Context()); err != nil {
				return err
			}
		}
		return nil
	}
}

// describe returns the suite's name of a request. A login is not a request of the users
// of a store.
func (t *faultInjector) describe(ctx context.Context, method string, req any) (conformance.Request, bool) {
	switch m := req.(type) {
	case *pb.TxnRequest:
		return t.describeTxn(ctx, m), true
	case *pb.RangeRequest:
		return conformance.Request{Op: operation(ctx, "Get"), Keys: t.logical(m.Key)}, true
	case *pb.LeaseGrantRequest:
		return conformance.Request{Op: "Grant"}, true
	case *pb.LeaseRevokeRequest:
		return conformance.Request{Op: "Revoke"}, true
	case *pb.LeaseKeepAliveRequest:
		return conformance.Request{Op: "Renew"}, true
	case *pb.WatchRequest:
		if m.GetProgressRequest() != nil {
			return conformance.Request{Op: "Probe"}, true
		}
		return conformance.Request{Op: "Wait"}, true
	case *pb.MemberListRequest, *pb.StatusRequest:
		return conformance.Request{Op: "Probe"}, true
	}
	return conformance.Request{Op: method[strings.LastIndexByte(method, '/')+1:]}, !strings.HasSuffix(method, "/Authenticate")
}

func (t *faultInjector) logical(keys ...[]byte) []string {
	var out []string
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(string(k), t.root); ok {
			out = append(out, rest)
		}
	}
	return out
}

// operation returns the operation that a call belongs to.
func operation(ctx context.Context, otherwise string) string {
	if op, ok := ctx.Value(operationKey{}).(string); ok {
		return op
	}
	return otherwise
}

type operationKey struct{}

func named(ctx context.Context, op string) context.Context {
	return context.WithValue(ctx, operationKey{}, op)
}

// describeTxn distinguishes transactions that only read, make a marker, settle an
// attempt, or belong to a user.
func (t *faultInjector) describeTxn(ctx context.Context, m *pb.TxnRequest) conformance.Request {
	var keys []string
	for _, c := range m.Compare {
		keys = append(keys, t.logical(c.Key)...)
	}
	for _, op := range m.Success {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			keys = append(keys, t.logical(r.RequestRange.Key)...)
		case *pb.RequestOp_RequestPut:
			keys = append(keys, t.logical(r.RequestPut.Key)...)
		case *pb.RequestOp_RequestDeleteRange:
			keys = append(keys, t.logical(r.RequestDeleteRange.Key)...)
		}
	}
	op := "Commit"
	switch {
	case len(m.Compare) == 0:
		op = operation(ctx, "Snapshot")
	case len(m.Success) == 1 && m.Compare[0].GetModRevision() == 0:
		op = "Mark"
	case len(m.Success) == 1:
		op = "Settle"
	}
	return conformance.Request{Op: op, Keys: keys}
}
