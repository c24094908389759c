package bypass_test

import (
	"testing"

	diff "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/topology"
)

func TestCallersThatObjectsName(t *testing.T) {
	web, db := topology.Name{Namespace: "shop", Name: "web"}, topology.Name{Namespace: "shop", Name: "db"}
	meta := func(name string, annotations ...string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{}}
		for i := 0; i < len(annotations); i += 2 {
			m.Annotations["prometheus.io/"+annotations[i]] = annotations[i+1]
		}
		return m
	}
	behind := func(service string, w topology.Name) topology.Service {
		return topology.Service{Name: topology.Name{Namespace: "shop", Name: service}, Ports: []topology.Port{{Endpoints: []topology.Endpoint{{Workload: w}, {Workload: w}}}}}
	}
	backend := func(service string) networkingv1.IngressBackend {
		return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service}}
	}
	got := bypass.Callers(topology.Topology{
		Services: []topology.Service{behind("web", web), behind("db", db)},
		Exposed: []topology.Exposed{
			{Workload: web, Pod: topology.Name{Namespace: "shop", Name: "web-1"}, Port: 8080},
			{Workload: web, Pod: topology.Name{Namespace: "shop", Name: "web-1"}, Port: 9090},
			{Workload: web, Pod: topology.Name{Namespace: "shop", Name: "web-2"}, Port: 9090},
			{Workload: db, Pod: topology.Name{Namespace: "shop", Name: "db-1"}, Port: 5432},
		},
	}, bypass.Known{
		Pods: []*corev1.Pod{
			{ObjectMeta: meta("web-1", "scrape", "true", "port", "9090")},
			{ObjectMeta: meta("web-2", "scrape", "true", "port", "9090")},
			{ObjectMeta: meta("db-1", "scrape", "false")},
		},
		Services: []*corev1.Service{
			{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}},
			{ObjectMeta: meta("db", "scrape", "true")},
		},
		Ingresses: []networkingv1.Ingress{{ObjectMeta: meta("front"), Spec: networkingv1.IngressSpec{
			Rules: []networkingv1.IngressRule{{}, {IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{Backend: backend("web")}, {Backend: backend("none")}},
			}}}},
		}}},
		Webhooks: map[topology.Name]string{{Namespace: "shop", Name: "db"}: "ValidatingWebhookConfiguration x"},
	})
	want := map[topology.Name][]string{
		web: {
			"callers from outside: the Service web is of type LoadBalancer", "scrapers: annotations of its pods send Prometheus to TCP port 9090",
			"the ingress controller: the Ingress front leads to the Service web",
		},
		db: {"scrapers: annotations of the Service db send Prometheus to it", "the API server: ValidatingWebhookConfiguration x calls the Service db"},
	}
	if d := diff.Diff(want, got); d != "" {
		t.Errorf("callers (-want +got):\n%s", d)
	}
}

func TestParsePeer(t *testing.T) {
	for text, want := range map[string]bool{
		"monitoring": true, "monitoring/app=prometheus": true, "monitoring/a=b,c=d": true, "monitoring/a=b+c=d": true,
		"10.0.0.0/8": true, "10.0.0.1": true, "fd00::/64": true,
		"": false, "/": false, "monitoring/": false, "monitoring/app": false, "Monitoring": false, "a/b=c=d": false, "10.0.0.0/33": false, "*": false,
	} {
		p, err := bypass.ParsePeer(text)
		if (err == nil) != want {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
}

func TestMayForge(t *testing.T) {
	yes := true
	caps := func(add, drop string) *corev1.SecurityContext {
		c := &corev1.Capabilities{}
		if add != "" {
			c.Add = []corev1.Capability{corev1.Capability(add)}
		}
		if drop != "" {
			c.Drop = []corev1.Capability{corev1.Capability(drop)}
		}
		return &corev1.SecurityContext{Capabilities: c}
	}
	privileged := caps("", "ALL")
	privileged.Privileged = &yes
	for name, tt := range map[string]struct {
		init, main *corev1.SecurityContext
		want       bool
	}{
		"nothing said":         {caps("", "ALL"), nil, true},
		"all dropped":          {caps("", "ALL"), caps("", "ALL"), false},
		"the one dropped":      {caps("", "NET_RAW"), caps("", "NET_RAW"), false},
		"another dropped":      {caps("", "ALL"), caps("", "CHOWN"), true},
		"added again":          {caps("", "ALL"), caps("NET_RAW", "ALL"), true},
		"another added":        {caps("", "ALL"), caps("NET_BIND_SERVICE", "ALL"), false},
		"privileged":           {caps("", "ALL"), privileged, true},
		"an init container":    {nil, caps("", "ALL"), true},
		"no capabilities said": {caps("", "ALL"), &corev1.SecurityContext{}, true},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{SecurityContext: tt.init}}, Containers: []corev1.Container{{SecurityContext: tt.main}}}}
		if got := bypass.MayForge(p); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	if !bypass.MayForge(&corev1.Pod{}) {
		t.Error("a pod of which nothing is known counts as harmless")
	}
}
