package backend

import "context"

// Verify reads the identity at a server and judges the server by it. It returns the
// identity. A server that had none is read again if this Store has got its identity
// meanwhile, because the key may have been written after the first read.
func (i *Identity) Verify(ctx context.Context, at string, read func(context.Context) (string, error)) (string, error) {
	before := i.ID()
	id, err := read(ctx)
	if err == nil && id == "" && i.ID() != before {
		id, err = read(ctx)
	}
	if err != nil {
		return "", err
	}
	return id, i.Check(ctx, at, id)
}
