package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
)

// clusterOptions say which cluster and which mesh in it a command is about.
type clusterOptions struct{ kubeconfig, context, namespace string }

func (o *clusterOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default as kubectl: $KUBECONFIG, then ~/.kube/config)")
	f.StringVar(&o.context, "context", "", "`name` of the kubeconfig's context (default: its current one)")
	f.StringVarP(&o.namespace, "namespace", "n", install.DefaultNamespace, "`namespace` of the mesh")
}

func (o *clusterOptions) connect() (*install.Cluster, error) {
	return install.Connect(o.kubeconfig, o.context)
}

// installer works on the mesh that the options name and writes its progress to out.
func (o *clusterOptions) installer(out io.Writer, timeout time.Duration) (*install.Installer, error) {
	c, err := o.connect()
	if err != nil {
		return nil, err
	}
	return &install.Installer{Cluster: c, Namespace: o.namespace, Out: out, Timeout: timeout}, nil
}
