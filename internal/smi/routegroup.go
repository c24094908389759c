package smi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// decodeRouteGroup reads the raw content: the SDK's header type takes only one of the two forms in use, and of a
// header that appears twice it keeps one at random.
func decodeRouteGroup(d decoding) (any, []problem.Problem) {
	flat := d.version == "v1alpha1" || d.version == "v1alpha2"
	raw, ok := d.body(flat, "matches")["matches"]
	list, isList := raw.([]any)
	if ok && raw != nil && !isList {
		return d.invalid(problem.InvalidObject, "matches is not a list")
	}
	g := HTTPRouteGroup{Meta: d.Meta}
	for i, e := range list {
		m, reason, err := decodeMatch(e)
		if err != nil {
			return d.invalid(reason, "matches[%d]: %v", i, err)
		}
		g.Matches = append(g.Matches, m)
	}
	return g, nil
}

func decodeMatch(e any) (m HTTPMatch, reason problem.Reason, err error) {
	raw, ok := e.(map[string]any)
	if !ok {
		return m, problem.InvalidObject, fmt.Errorf("is not an object")
	}
	if m.Name, err = text(raw, "name"); err != nil {
		return m, problem.InvalidObject, err
	}
	if m.PathRegex, err = text(raw, "pathRegex"); err != nil {
		return m, problem.InvalidObject, err
	}
	if m.Methods, err = decodeMethods(raw["methods"]); err != nil {
		return m, problem.InvalidObject, err
	}
	if m.Headers, err = decodeHeaders(raw["headers"]); err != nil {
		return m, problem.InvalidObject, err
	}
	if err = checkRegex(m.PathRegex); err != nil {
		return m, problem.InvalidRegex, fmt.Errorf("pathRegex: %w", err)
	}
	for _, h := range m.Headers {
		if err = checkRegex(h.ValueRegex); err != nil {
			return m, problem.InvalidRegex, fmt.Errorf("header %s: %w", problem.Quote(h.Name), err)
		}
	}
	return m, "", nil
}

func text(m map[string]any, key string) (string, error) {
	v, ok := m[key]
	s, isText := v.(string)
	if ok && v != nil && !isText {
		return "", fmt.Errorf("%s is not a string", key)
	}
	return s, nil
}

// decodeMethods returns no methods for all methods.
func decodeMethods(v any) ([]string, error) {
	list, ok := v.([]any)
	if v != nil && !ok {
		return nil, fmt.Errorf("methods is not a list")
	}
	var methods []string
	all := false
	for _, e := range list {
		method, ok := e.(string)
		if !ok || !isToken(method) {
			return nil, fmt.Errorf("%s is not an HTTP method", problem.Quote(fmt.Sprint(e)))
		}
		all = all || method == "*"
		methods = append(methods, strings.ToUpper(method))
	}
	if all {
		return nil, nil
	}
	slices.Sort(methods)
	return slices.Compact(methods), nil
}

// decodeHeaders takes both forms in use, a map and a list of maps. All entries are ANDed, so that a header may appear
// twice with different expressions.
func decodeHeaders(v any) ([]HeaderMatch, error) {
	var entries []any
	switch x := v.(type) {
	case nil:
	case map[string]any:
		entries = []any{x}
	case []any:
		entries = x
	default:
		return nil, fmt.Errorf("headers is neither a map nor a list of maps")
	}
	var headers []HeaderMatch
	for _, e := range entries {
		entry, ok := e.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("headers is neither a map nor a list of maps")
		}
		for name, value := range entry {
			regex, ok := value.(string)
			if !ok || !isToken(name) {
				return nil, fmt.Errorf("headers: %s is not a header with a regular expression", problem.Quote(name))
			}
			headers = append(headers, HeaderMatch{Name: strings.ToLower(name), ValueRegex: regex})
		}
	}
	slices.SortFunc(headers, func(a, b HeaderMatch) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ValueRegex, b.ValueRegex))
	})
	return slices.Compact(headers), nil
}

// isToken says whether s may be a method or the name of a header (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		alphanumeric := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alphanumeric && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}
