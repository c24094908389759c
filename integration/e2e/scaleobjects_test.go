package e2e

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// makeNode makes a node that nobody runs.
func (s *scale) makeNode(ctx context.Context, i int) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
		corev1.LabelHostname: nodeName(i), corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%3),
	}}}
	if _, err := s.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	status := map[string]any{"status": map[string]any{"addresses": []map[string]string{{"type": "InternalIP", "address": address(199, i)}}}}
	_, err := s.client.CoreV1().Nodes().Patch(ctx, nodeName(i), types.MergePatchType, encode(status), metav1.PatchOptions{}, "status")
	return err
}

// address is the i-th of a range of 65,536.
func address(second, i int) string { return fmt.Sprintf("10.%d.%d.%d", second, i/250, i%250+1) }

// makeService makes a Service with a slice and two running pods.
func (s *scale) makeService(ctx context.Context, i int) error {
	meta := metav1.ObjectMeta{Namespace: serviceNamespace(i), Name: serviceName(i)}
	if _, err := s.client.CoreV1().Services(meta.Namespace).Create(ctx, &corev1.Service{
		ObjectMeta: meta,
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{}); err != nil {
		return err
	}
	name, port, protocol, ready := "http", int32(8080), corev1.ProtocolTCP, true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: meta.Name, discoveryv1.LabelManagedBy: "scale-test"}
	for n := range 2 {
		p, err := s.makePod(ctx, podSpec{
			namespace: meta.Namespace, name: fmt.Sprintf("%s-%d", meta.Name, n), account: "default",
			node: nodeName((2*i + n) % s.size.proxies), ip: address(201, 2*i+n), labels: map[string]string{"app": meta.Name},
		})
		if err != nil {
			return err
		}
		if err := s.setStatus(ctx, p.Namespace, p.Name, address(201, 2*i+n), true); err != nil {
			return err
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address(201, 2*i+n)}, NodeName: &p.Spec.NodeName, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		})
	}
	_, err := s.client.DiscoveryV1().EndpointSlices(meta.Namespace).Create(ctx, slice, metav1.CreateOptions{})
	return err
}

type podSpec struct {
	namespace, name, account, node, ip string
	labels                             map[string]string
}

// makePod makes a pod that is bound to its node, and that PodSecurity restricted lets in.
func (s *scale) makePod(ctx context.Context, p podSpec) (*corev1.Pod, error) {
	no, yes := false, true
	return s.client.CoreV1().Pods(p.namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, Labels: p.labels},
		Spec: corev1.PodSpec{
			ServiceAccountName: p.account, AutomountServiceAccountToken: &no, NodeName: p.node,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "main", Image: "example.com/none", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	}, metav1.CreateOptions{})
}

// setStatus says what a kubelet would.
func (s *scale) setStatus(ctx context.Context, namespace, name, ip string, ready bool) error {
	condition := map[string]string{"type": "Ready", "status": "False"}
	if ready {
		condition["status"] = "True"
	}
	status := map[string]any{"status": map[string]any{
		"phase": "Running", "podIP": ip, "podIPs": []map[string]string{{"ip": ip}}, "conditions": []map[string]string{condition},
	}}
	_, err := s.client.CoreV1().Pods(namespace).Patch(ctx, name, types.MergePatchType, encode(status), metav1.PatchOptions{}, "status")
	return err
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings
	}
	return b
}
