package push

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// authTimeout bounds the judging of one token.
	authTimeout = 10 * time.Second
	// authenticating bounds how many tokens are judged at once.
	authenticating = 32
)

// judge finds out who calls.
type judge struct {
	Authenticator
	places chan struct{} // one for each token that is being judged
}

func newJudge(a Authenticator) judge { return judge{a, make(chan struct{}, authenticating)} }

// bearerOf returns the token of a call.
func bearerOf(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", status.Error(codes.Unauthenticated, "one authorization is needed")
	}
	token, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok || token == "" {
		return "", status.Error(codes.Unauthenticated, "a bearer token is needed")
	}
	return token, nil
}

// peer judges the bearer token of a call. Its errors are of gRPC.
func (j judge) peer(ctx context.Context) (Peer, error) {
	token, err := bearerOf(ctx)
	if err != nil {
		return Peer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	select {
	case j.places <- struct{}{}:
		defer func() { <-j.places }()
	case <-ctx.Done():
		return Peer{}, status.Error(codes.Unavailable, "too many tokens to judge")
	}
	peer, err := j.Authenticate(ctx, token)
	switch {
	case errors.Is(err, ErrDenied):
		return Peer{}, status.Error(codes.Unauthenticated, err.Error())
	case err != nil:
		return Peer{}, status.Error(codes.Unavailable, err.Error())
	case peer.Pod == "" || peer.UID == "":
		return Peer{}, status.Error(codes.Unauthenticated, "the token names no pod")
	}
	return peer, nil
}
