package etcd3

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
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
		return authToken{}, nil
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
	resp, err := c.auth.Authenticate(outgoing(ctx, authToken{}), &pb.AuthenticateRequest{Name: c.b.c.Username, Password: c.b.c.Password})
	switch {
	case err == nil:
		next.value = resp.Token
	case !authOff(err):
		return authToken{}, err
	}
	c.latest.Store(&next)
	return next, nil
}
