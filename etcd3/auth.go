package etcd3

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

// authToken proves to a member for which user a call is made. Its value is empty
// where authentication is switched off.
type authToken struct {
	value string
	login uint64 // counts the logins of a connection; 0: none yet
}

// maxLogins bounds how often one call tries: a token can become invalid again
// while the call is made, by its age or because users or roles changed.
const maxLogins = 3

// outgoing returns ctx with the metadata that every call carries: the token, and
// hasleader, which makes a member that is cut off say so at once instead of after
// 7 s.
func outgoing(ctx context.Context, token authToken) context.Context {
	if token.value == "" {
		return metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
	}
	return metadata.AppendToOutgoingContext(ctx, "hasleader", "true", "token", token.value)
}

// token returns the one of the latest login, which the first call makes.
func (c *conn) token(ctx context.Context) (authToken, error) {
	return c.login(ctx, authToken{})
}

// login returns a newer token than old, which the member refused. Calls that need
// one at the same time share one login, because each costs the member the hash of
// a password.
func (c *conn) login(ctx context.Context, old authToken) (authToken, error) {
	if c.b.c.Username == "" {
		return authToken{value: c.b.c.Token}, nil
	}
	newer := func() (authToken, bool) {
		latest := c.latest.Load()
		if latest == nil || latest.login == old.login {
			return authToken{}, false
		}
		return *latest, true
	}
	return c.logins.Do(ctx, c.b.life, c.b.c.Timing.RetryTimeout, newer, c.authenticate)
}

// authenticate logs in.
func (c *conn) authenticate(ctx context.Context) (authToken, error) {
	next := authToken{login: 1}
	if latest := c.latest.Load(); latest != nil {
		next.login = latest.login + 1
	}
	for _, password := range c.b.passwords.candidates() {
		resp, err := c.auth.Authenticate(outgoing(ctx, authToken{}), &pb.AuthenticateRequest{Name: c.b.c.Username, Password: password})
		switch {
		case err == nil:
			c.b.passwords.accept(password)
			next.value = resp.Token
		case wrongPassword(err):
			continue
		case !authOff(err):
			return authToken{}, err
		}
		c.latest.Store(&next)
		return next, nil
	}
	if c.b.passwords.refuse(c.b.c.Timing.RetryTimeout) {
		return authToken{}, &backend.Failure{Endpoint: c.addr, Err: errPasswordChanging, Refused: true}
	}
	return authToken{}, rpctypes.ErrGRPCAuthFailed
}

// passwords chooses the password of a login. It never changes in etcd and in our
// file at the same moment.
type passwords struct {
	secret *credentials.Secret

	mu       sync.Mutex
	accepted *string     // by the last login that succeeded; nil: none yet
	refused  dcs.Instant // when the first login since that one was refused; zero: none was
}

// candidates returns the passwords that a login may try: the file's, and the
// last one that etcd accepted.
func (p *passwords) candidates() []string {
	now := p.secret.Current()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accepted == nil || *p.accepted == now {
		return []string{now}
	}
	return []string{now, *p.accepted}
}

// accept notes that etcd accepted a password.
func (p *passwords) accept(password string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted, p.refused = &password, dcs.Instant{}
}

// refuse notes that etcd refused all candidates, and reports whether the file may
// be about to change: etcd accepted one before, and has refused all for less
// than patience.
func (p *passwords) refuse(patience time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accepted == nil || !p.secret.MayChange() {
		return false
	}
	if p.refused.IsZero() {
		p.refused = dcs.Now()
	}
	return p.refused.Elapsed() < patience
}
