package proxyconfig

import (
	"regexp/syntax"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/smi"
)

func matchOf(in smi.HTTPMatch) *configv1.Match {
	m := &configv1.Match{Methods: in.Methods}
	if in.PathRegex != "" {
		m.PathRegex = anchor(in.PathRegex, "")
	}
	for _, h := range in.Headers {
		m.Headers = append(m.Headers, &configv1.HeaderMatch{Name: h.Name, ValueRegex: anchor(h.ValueRegex, "$")})
	}
	return m
}

// anchor ties expr to the start of what it is matched against, and to end. The group keeps an alternation whole and its
// flags inside: "^/a|/b" starts with either, "(?m)x" does not make the anchors fit at line ends.
func anchor(expr, end string) string {
	if strings.Contains(expr, `\Q`) {
		// A quotation that is left open would swallow the end of the group.
		if re, err := syntax.Parse(expr, syntax.Perl); err == nil {
			expr = re.String()
		}
	}
	return "^(?:" + expr + ")" + end
}
