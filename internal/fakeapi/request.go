package fakeapi

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

type request struct {
	key
	verb     string // as RBAC names it; apply and review besides
	selector string
	fields   string // a field selector: metadata.name or an Event's source
	dryRun   bool
	body     Object
}

// kinds are what the server knows: kind, resource, group/version, namespaced.
var kinds = []struct {
	kind, resource, version string
	namespaced              bool
}{
	{"Namespace", "namespaces", "v1", false},
	{"Node", "nodes", "v1", false},
	{"Pod", "pods", "v1", true},
	{"Service", "services", "v1", true},
	{"ServiceAccount", "serviceaccounts", "v1", true},
	{"ConfigMap", "configmaps", "v1", true},
	{"Secret", "secrets", "v1", true},
	{"Event", "events", "v1", true},
	{"ResourceQuota", "resourcequotas", "v1", true},
	{"Deployment", "deployments", "apps/v1", true},
	{"DaemonSet", "daemonsets", "apps/v1", true},
	{"PodDisruptionBudget", "poddisruptionbudgets", "policy/v1", true},
	{"NetworkPolicy", "networkpolicies", "networking.k8s.io/v1", true},
	{"ServiceCIDR", "servicecidrs", "networking.k8s.io/v1", false},
	{"Role", "roles", "rbac.authorization.k8s.io/v1", true},
	{"RoleBinding", "rolebindings", "rbac.authorization.k8s.io/v1", true},
	{"ClusterRole", "clusterroles", "rbac.authorization.k8s.io/v1", false},
	{"ClusterRoleBinding", "clusterrolebindings", "rbac.authorization.k8s.io/v1", false},
	{"ValidatingAdmissionPolicy", "validatingadmissionpolicies", "admissionregistration.k8s.io/v1", false},
	{"ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "admissionregistration.k8s.io/v1", false},
	{"ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "admissionregistration.k8s.io/v1", false},
	{"CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io/v1", false},
	{"EndpointSlice", "endpointslices", "discovery.k8s.io/v1", true},
	{"Lease", "leases", "coordination.k8s.io/v1", true},
	{"TrafficTarget", "traffictargets", "access.smi-spec.io/v1alpha3", true},
	{"TrafficSplit", "trafficsplits", "split.smi-spec.io/v1alpha4", true},
	{"HTTPRouteGroup", "httproutegroups", "specs.smi-spec.io/v1alpha4", true},
	{"TCPRoute", "tcproutes", "specs.smi-spec.io/v1alpha4", true},
	{"SelfSubjectAccessReview", "selfsubjectaccessreviews", "authorization.k8s.io/v1", false},
}

// parse reads /api/v1/namespaces/NS/pods/NAME and its relatives.
func parse(r *http.Request) (request, bool) {
	q := request{selector: r.URL.Query().Get("labelSelector")}
	q.dryRun = r.URL.Query().Has("dryRun")
	q.fields = r.URL.Query().Get("fieldSelector")
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		q.group, parts = parts[1], parts[3:]
	default:
		return q, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" {
		q.namespace, parts = parts[1], parts[2:]
	}
	q.resource = parts[0]
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if data, err := io.ReadAll(r.Body); err != nil || r.Method != http.MethodDelete && len(data) > 0 && yaml.Unmarshal(data, &q.body) != nil {
		return q, false
	}
	q.verb = verb(r, q)
	return q, q.verb != ""
}

func verb(r *http.Request, q request) string {
	switch {
	case strings.HasSuffix(q.resource, "reviews"):
		return "review"
	case r.Method == http.MethodGet && q.name == "":
		return "list"
	case r.Method == http.MethodGet:
		return "get"
	case r.Method == http.MethodPost:
		return "create"
	case r.Method == http.MethodPut:
		return "update"
	case r.Method == http.MethodDelete && q.name == "":
		return "deletecollection"
	case r.Method == http.MethodDelete:
		return "delete"
	case r.Method == http.MethodPatch && strings.Contains(r.Header.Get("Content-Type"), "apply-patch"):
		return "apply"
	case r.Method == http.MethodPatch:
		return "patch"
	}
	return ""
}

// review answers what a user may do: everything that the server wouldn't refuse.
func (s *Server) review(q request) Object {
	spec, _ := q.body["spec"].(map[string]any)
	may := s.Refuse == nil || s.Refuse(nested(spec, "resourceAttributes", "verb"), nested(spec, "resourceAttributes", "resource"),
		nested(spec, "resourceAttributes", "namespace"), "") == nil
	return merge(q.body, Object{"status": Object{"allowed": may}})
}

func keyOf(o Object) key {
	gv, _ := schema.ParseGroupVersion(nested(o, "apiVersion"))
	k := key{group: gv.Group, namespace: nested(o, "metadata", "namespace"), name: nested(o, "metadata", "name")}
	for _, known := range kinds {
		if known.kind == o["kind"] {
			k.resource = known.resource
		}
	}
	if k.resource == "" {
		panic("fakeapi doesn't know the kind " + nested(o, "kind"))
	}
	return k
}

// selects is true if the field selector fits; one that the server doesn't know fits nothing.
func (q request) selects(o Object) bool {
	field, value, _ := strings.Cut(q.fields, "=")
	switch field {
	case "":
		return true
	case "metadata.name":
		return nested(o, "metadata", "name") == value
	case "source":
		return nested(o, "source", "component") == value
	}
	return false
}

func listKind(k key) (kind, version string) {
	for _, known := range kinds {
		if gv, _ := schema.ParseGroupVersion(known.version); known.resource == k.resource && gv.Group == k.group {
			return known.kind + "List", known.version
		}
	}
	return "List", "v1"
}

// Parse reads YAML documents as objects; it panics on errors, for it reads what tests write.
func Parse(text string) []Object {
	var out []Object
	for doc := range strings.SplitSeq(text, "\n---\n") {
		data, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			panic(err)
		}
		var o Object
		if err := json.Unmarshal(data, &o); err != nil {
			panic(err)
		}
		if o != nil {
			out = append(out, o)
		}
	}
	return out
}

// discovery answers what clients ask to learn about kinds and versions.
func (s *Server) discovery(w http.ResponseWriter, r *http.Request) bool {
	switch path := strings.Trim(r.URL.Path, "/"); {
	case path == "version":
		reply(w, http.StatusOK, Object{"gitVersion": s.Version, "major": "1", "minor": "34"})
	case path == "api":
		reply(w, http.StatusOK, Object{"kind": "APIVersions", "versions": []string{"v1"}})
	case path == "apis":
		reply(w, http.StatusOK, groups())
	case path == "api/v1":
		reply(w, http.StatusOK, resources("v1"))
	case strings.HasPrefix(path, "apis/") && strings.Count(path, "/") == 2:
		reply(w, http.StatusOK, resources(strings.TrimPrefix(path, "apis/")))
	default:
		return false
	}
	return true
}

func groups() metav1.APIGroupList {
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	seen := map[string]bool{"v1": true}
	for _, k := range kinds {
		if !seen[k.version] {
			seen[k.version] = true
			gv, _ := schema.ParseGroupVersion(k.version)
			v := metav1.GroupVersionForDiscovery{GroupVersion: k.version, Version: gv.Version}
			list.Groups = append(list.Groups, metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
		}
	}
	return list
}

func resources(version string) metav1.APIResourceList {
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version}
	for _, k := range kinds {
		if k.version == version {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: k.resource, Kind: k.kind, Namespaced: k.namespaced,
				Verbs: metav1.Verbs{"get", "list", "create", "update", "patch", "delete"},
			})
		}
	}
	return list
}

// CoreDNS is the DNS of a usual cluster, for Parse.
const CoreDNS = `
{apiVersion: v1, kind: Service, metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}, spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], selector: {k8s-app: kube-dns}, ports: [{name: dns, port: 53, protocol: UDP}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  replicas: 2
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      containers:
        - {name: coredns, image: "registry.k8s.io/coredns/coredns:v1.12.1", args: [-conf, /etc/coredns/Corefile], volumeMounts: [{name: config, mountPath: /etc/coredns}]}
      volumes:
        - {name: config, configMap: {name: coredns}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
        errors
        kubernetes cluster.local in-addr.arpa ip6.arpa
        forward . /etc/resolv.conf
        cache 30
        reload
    }
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
`
