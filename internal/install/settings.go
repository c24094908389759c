package install

import (
	"context"
	"fmt"
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Settings are the flags of the mesh's processes by name, without dashes: what a mesh was told, whoever installed it.
// dns-mode is always there: nobody has the flag if it is off.
type Settings map[string]string

// settingsNames are the Deployments whose flags are settings. The first one that has a flag counts: what keeps the cluster's
// DNS knows best about that, and controllers of older versions have all of the flags.
func settingsNames() []string { return []string{dnsName, controllerName} }

// SettingsOf returns the settings of the mesh that is installed in the namespace, nil if none is.
func SettingsOf(ctx context.Context, c *Cluster, namespace string) (Settings, error) {
	var found []*appsv1.Deployment
	for _, name := range settingsNames() {
		d, err := c.Kube.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil && !isNotFound(err) {
			return nil, Explain(fmt.Errorf("get Deployment %s/%s: %w", namespace, name, err))
		}
		if err == nil {
			found = append(found, d)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	return settings(found), nil
}

// Settings returns the settings that the release would install.
func (r Rendered) Settings() (Settings, error) {
	var found []*appsv1.Deployment
	for _, name := range settingsNames() {
		o := deploymentOf(r.Objects, name)
		if o == nil {
			continue
		}
		d := &appsv1.Deployment{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, d); err != nil {
			return nil, fmt.Errorf("read the rendered Deployment: %w", err)
		}
		found = append(found, d)
	}
	return settings(found), nil
}

// deploymentOf returns the Deployment of that name, nil if there is none.
func deploymentOf(objects []*unstructured.Unstructured, name string) *unstructured.Unstructured {
	for _, o := range objects {
		if o.GetKind() == "Deployment" && o.GetName() == name {
			return o
		}
	}
	return nil
}

func settings(of []*appsv1.Deployment) Settings {
	out := Settings{}
	for _, d := range of {
		for _, c := range d.Spec.Template.Spec.Containers {
			own := Settings{}
			for _, arg := range c.Args {
				if flag, is := strings.CutPrefix(arg, "--"); is {
					name, value, _ := strings.Cut(flag, "=")
					own[name] = value // as for the process itself, the last one counts
				}
			}
			maps.DeleteFunc(own, func(name, _ string) bool { _, has := out[name]; return has })
			maps.Copy(out, own)
		}
	}
	if _, has := out["dns-mode"]; !has {
		out["dns-mode"] = "off"
	}
	return out
}

// List splits a setting at its commas.
func (s Settings) List(name string) []string {
	if s[name] == "" {
		return nil
	}
	return strings.Split(s[name], ",")
}
