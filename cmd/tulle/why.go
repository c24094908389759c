package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/why"
)

// whyOptions are the flags of `tulle why`.
type whyOptions struct {
	clusterOptions
	from, to, method, path string
	headers                []string
	tcp, udp               bool
	at, access             string
	dir, output            string
}

func newWhy() *cobra.Command {
	o := &whyOptions{}
	cmd := &cobra.Command{
		Use:   "why --from NAMESPACE/SERVICEACCOUNT --to NAME.NAMESPACE[:PORT] | why LOGLINE",
		Short: "Say whether a call is allowed, by which rule, and where it goes",
		Long: `Say whether a call is allowed, by which rule, and where it goes: every TrafficTarget of the destination with what it
has to do with the call, the TrafficSplit that is taken, its backends and their endpoints. The answer comes from the code
that the proxies decide with, and from the objects of the cluster, as far as you may read them, or with -f of files.

A line of a proxy's log with a reason of access control can be given instead of a call, or "-" to read it from standard
input: the answer is what an enforcing mesh would do with it now.

The exit code is 0 if the call is allowed and 1 if it is not.`,
		Example: `  tulle why --from shop/client --to web.shop --path /api/items
  tulle why --from shop/client-7d4f-x2z --to db.shop:5432 --tcp -o json
  tulle why -f cmd/tulle/examples --access enforce --from shop/client --to web.shop
  kubectl -n tulle-system logs ds/tulle-proxy | grep source-denied | tail -1 | tulle why -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", `who calls: namespace/serviceaccount, or namespace/pod; "-" is somebody that the mesh does not know`)
	f.StringVar(&o.to, "to", "", "what is called: name.namespace or a mesh name, with :port if there are several")
	f.StringVar(&o.method, "method", "", "HTTP method (default GET)")
	f.StringVar(&o.path, "path", "", "HTTP path (default /)")
	f.StringArrayVar(&o.headers, "header", nil, "HTTP header, `name=value`; may be repeated")
	f.BoolVar(&o.tcp, "tcp", false, "the call is a TCP connection")
	f.BoolVar(&o.udp, "udp", false, "the call is a UDP flow")
	f.StringVar(&o.at, "at", "now", "now: by the mode that is set; audit: what an audit would find, whatever the mode")
	f.StringVarP(&o.dir, "filename", "f", "", "folder with YAML files to answer from, instead of a cluster")
	f.StringVar(&o.access, "access", "", "mode of namespaces that say nothing, with -f (default off): off, audit or enforce")
	outputFlag(cmd, &o.output)
	return cmd
}

// errDenied makes the exit code 1 of an answer that is complete by itself.
var errDenied = errors.New("denied")

func (o *whyOptions) run(cmd *cobra.Command, args []string) error {
	q, err := o.question(args, cmd.InOrStdin())
	if err != nil {
		return err
	}
	config, resources, hidden, err := o.read(cmd.Context(), q)
	if err != nil {
		return err
	}
	if q.Enforced || o.at == "audit" {
		q.Enforced = true
		config.AccessMinimum = cmp.Or(config.AccessMinimum, topology.AccessOff)
		if config.AccessMinimum == topology.AccessOff {
			config.AccessMinimum = topology.AccessAudit // so that there are policies to judge by
		}
	}
	mesh, err := why.New(config, resources)
	if err != nil {
		return err
	}
	a, err := mesh.Ask(q)
	if err != nil {
		return install.WithNext(err, "`tulle why --help` shows examples")
	}
	if o.dir == "" {
		o.wayAround(cmd.Context(), a)
	}
	for _, h := range hidden {
		a.Notes = append(a.Notes, "you may not read "+h+": the answer leaves it out, and may be wrong for that")
	}
	a.Hidden = hidden
	if o.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), a)
	} else {
		err = why.Write(cmd.OutOrStdout(), a)
	}
	if err == nil && !a.Allow {
		return errDenied
	}
	return err
}

// wayAround says what the controllers know of calls past the mesh to the destinations, if the user may read that.
func (o *whyOptions) wayAround(ctx context.Context, a *why.Answer) {
	cluster, err := o.connect()
	if err != nil {
		return
	}
	s, err := install.ReadStatus(ctx, cluster, o.namespace)
	if err != nil || s == nil {
		return
	}
	known := map[string]string{}
	for _, d := range s.Leader.Direct {
		known[d.Workload] = bypass.Text(bypass.State(d.State), d.Why, d.Except)
	}
	a.AroundTo(known)
}

// question is what the flags, or a line of a log, ask.
func (o *whyOptions) question(args []string, stdin io.Reader) (why.Question, error) {
	if o.at != "now" && o.at != "audit" {
		return why.Question{}, install.WithNext(fmt.Errorf("unknown --at %q", o.at), "use now or audit")
	}
	if len(args) == 1 {
		line := args[0]
		if line == "-" {
			scanner := bufio.NewScanner(stdin)
			scanner.Scan()
			line = scanner.Text()
		}
		q, err := why.Line(line)
		return q, install.WithNext(err, "give it a line such as: reason=source-denied protocol=http from=shop/client to=web.shop port=80 method=GET path=/")
	}
	if o.from == "" || o.to == "" {
		return why.Question{}, install.WithNext(errors.New("who calls what?"), "give --from NAMESPACE/SERVICEACCOUNT and --to NAME.NAMESPACE, or a line of a proxy's log")
	}
	if o.tcp && o.udp {
		return why.Question{}, install.WithNext(errors.New("--tcp and --udp exclude each other"), "give one of them")
	}
	q := why.Question{From: o.from, To: o.to, Method: o.method, Path: o.path}
	if host, port, err := net.SplitHostPort(o.to); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return q, install.WithNext(fmt.Errorf("--to %q: %q is no port number", o.to, port), "use the number of the Service's port")
		}
		q.To, q.Port = host, uint32(n)
	}
	switch {
	case o.tcp:
		q.Protocol = "tcp"
	case o.udp:
		q.Protocol = "udp"
	case o.method != "" || o.path != "" || len(o.headers) > 0:
		q.Protocol = "http"
	}
	for _, h := range o.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return q, install.WithNext(fmt.Errorf("--header %q has no value", h), "write it as name=value")
		}
		q.Headers = append(q.Headers, why.Header{Name: name, Value: value})
	}
	return q, nil
}

// read returns what the answer is made of, and what the user may not read.
func (o *whyOptions) read(ctx context.Context, q why.Question) (topology.Config, topology.Resources, []string, error) {
	if o.dir != "" {
		source, err := files.Open(o.dir)
		if err != nil {
			return topology.Config{}, topology.Resources{}, nil, install.WithNext(err, "name a folder of YAML files with -f")
		}
		return topology.Config{
			AccessDefault: topology.AccessMode(o.access), TrustTargetRefs: true,
			AllowedEndpoints: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		}, source.Snapshot().Resources, nil, nil
	}
	cluster, err := o.connect()
	if err != nil {
		return topology.Config{}, topology.Resources{}, nil, err
	}
	from, _, _ := strings.Cut(q.From, "/")
	namespaces := []string{}
	if labels := strings.Split(q.To, "."); len(labels) > 1 {
		namespaces = append(namespaces, labels[1])
	}
	if from != "-" && from != "" {
		namespaces = append(namespaces, from)
	}
	reader := kube.Reader{Client: cluster.Kube, Dynamic: cluster.Dynamic, Namespaces: namespaces}
	snapshot, hidden, err := reader.Read(ctx)
	if err != nil {
		return topology.Config{}, topology.Resources{}, nil, install.Explain(err)
	}
	config := topology.Config{MeshNamespace: o.namespace, IgnoreNamespaces: []string{"kube-system"}}
	if s, err := install.SettingsOf(ctx, cluster, o.namespace); err != nil || s == nil {
		hidden = append(hidden, "the mesh's settings")
	} else {
		config = o.topology(s)
	}
	return config, snapshot.Resources, hidden, nil
}

// topology is how the mesh that is installed reads the cluster.
func (o *clusterOptions) topology(s install.Settings) topology.Config {
	c := topology.Config{
		MeshNamespace: o.namespace, WatchNamespaces: s.List("watch-namespaces"), IgnoreNamespaces: s.List("ignore-namespaces"),
		DefaultMode: topology.Protocol(s["default-mode"]), AccessDefault: topology.AccessMode(s["access-default"]),
		AccessMinimum: topology.AccessMode(s["access-minimum"]),
	}
	_, c.ForeignPods = s["endpoints-foreign-pods"]
	for name, into := range map[string]*[]netip.Prefix{"endpoints-allow": &c.AllowedEndpoints, "pod-cidrs": &c.PodCIDRs, "service-cidrs": &c.ServiceCIDRs} {
		for _, text := range s.List(name) {
			if p, err := netip.ParsePrefix(text); err == nil {
				*into = append(*into, p)
			}
		}
	}
	return c
}
