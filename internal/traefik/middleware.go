package traefik

import (
	"strconv"

	"github.com/traefik/traefik/v2/pkg/config/dynamic"
)

// connectAttempts is how many endpoints are tried if none can be connected to, as by the mesh's own proxy.
const connectAttempts = 5

// nobody is an address that no caller has.
const nobody = "255.255.255.255/32"

// middlewares of a router that lets through. The header by which the mesh's own proxy says who calls is nobody else's
// to write: an empty value takes it away.
func (r *renderer) middlewares(t httpTarget) []string {
	n := attempts(t)
	if r.open[n] == nil {
		r.open[n] = []string{r.middleware("unforged", &dynamic.Middleware{Headers: &dynamic.Headers{CustomRequestHeaders: map[string]string{"X-Forwarded-Client-Cert": ""}}})}
		if n > 1 {
			r.open[n] = append(r.open[n], r.middleware("retry-"+strconv.Itoa(n), &dynamic.Middleware{Retry: &dynamic.Retry{Attempts: n}}))
		}
	}
	return r.open[n]
}

// attempts is how often a request is sent at most. Traefik repeats one only if nothing of it was written, which is always
// safe; but it draws anew between the backends of a split, so there it is left to those who ask for it: a canary that
// refuses connections shall not look healthy.
func attempts(t httpTarget) int {
	if len(t.shares) > 1 {
		return 1 + t.port.RetryAttempts
	}
	return max(connectAttempts, 1+t.port.RetryAttempts)
}

// closedMiddlewares refuse everything with 403 and say why.
func (r *renderer) closedMiddlewares() []string {
	return []string{
		r.middleware("closed-reason", &dynamic.Middleware{Headers: &dynamic.Headers{CustomResponseHeaders: map[string]string{"Tulle-Reason": "access-denied"}}}),
		r.middleware("closed", &dynamic.Middleware{IPAllowList: &dynamic.IPAllowList{SourceRange: []string{nobody}}}),
	}
}

func (r *renderer) middleware(name string, m *dynamic.Middleware) string {
	r.http.Middlewares[name] = m
	return name
}
