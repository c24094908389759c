package install

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Settings are the flags of a controller by name, without dashes: what a mesh was told, whoever installed it.
type Settings map[string]string

// SettingsOf returns the settings of the mesh that is installed in the namespace, nil if none is.
func SettingsOf(ctx context.Context, c *Cluster, namespace string) (Settings, error) {
	d, err := c.Kube.AppsV1().Deployments(namespace).Get(ctx, controllerName, metav1.GetOptions{})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, Explain(fmt.Errorf("get Deployment %s/%s: %w", namespace, controllerName, err))
	}
	return settings(d), nil
}

// Settings returns the settings that the release would install.
func (r Rendered) Settings() (Settings, error) {
	for _, o := range r.Objects {
		if o.GetKind() == "Deployment" && o.GetName() == controllerName {
			var d appsv1.Deployment
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &d); err != nil {
				return nil, fmt.Errorf("read the rendered Deployment: %w", err)
			}
			return settings(&d), nil
		}
	}
	return Settings{}, nil
}

func settings(d *appsv1.Deployment) Settings {
	out := Settings{}
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, arg := range c.Args {
			name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			out[name] = value
		}
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
