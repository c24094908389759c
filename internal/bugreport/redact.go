package bugreport

import (
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const redacted = "[redacted]"

// secrets are what text may hold and a report must not. The first group, if there is one, is kept.
type secrets []*regexp.Regexp

func newSecrets() secrets {
	return secrets{
		regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*`),
		regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`),
		regexp.MustCompile(`(?i)((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}`),
		regexp.MustCompile(`(?i)((?:authorization|cookie|set-cookie|x-api-key|api[-_]?key|password|passwd|secret|token|credential)s?["']?\s*[:=]\s*["']?)[^\s"',;}\\]+`),
		regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@`),
	}
}

// text takes secrets out of a log or another text.
func (s secrets) text(in string) string {
	for _, r := range s {
		in = r.ReplaceAllString(in, "${1}"+redacted)
	}
	return in
}

// object takes secrets out of an object, and what only makes it long. It changes o.
func (s secrets) object(o *unstructured.Unstructured) {
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	o.SetAnnotations(annotations)
	o.Object, _ = s.value("", o.Object).(map[string]any)
}

// value takes secrets out of a value under a key: strings of keys that sound secret go whole.
func (s secrets) value(key string, v any) any {
	switch v := v.(type) {
	case string:
		if secretKey(key) && v != "" {
			return redacted
		}
		return s.text(v)
	case []any:
		for i := range v {
			v[i] = s.value(key, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = s.value(k, v[k])
		}
	}
	return v
}

// secretKey is true for names of headers and fields that hold credentials. Names of Secrets are no secrets.
func secretKey(key string) bool {
	k := strings.ToLower(key)
	switch k {
	case "secretname", "automountserviceaccounttoken", "serviceaccounttoken", "imagepullsecrets", "tokenfile":
		return false
	}
	for _, word := range []string{"authorization", "cookie", "password", "passwd", "api-key", "apikey", "credential", "token", "secret"} {
		if strings.Contains(k, word) {
			return true
		}
	}
	return false
}
