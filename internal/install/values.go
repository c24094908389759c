package install

import (
	"fmt"
	"io"
	"maps"
	"os"

	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
)

// Values are the values that a user gives, as in a values file. They are merged over the chart's.
type Values map[string]any

// ValuesSource says where values come from.
type ValuesSource struct {
	Files     []string // "-" is standard input; the later are merged over the earlier
	Set       []string // assignments like "proxy.accessLog=true", as `helm --set` reads them
	SetString []string // the same, but values are strings whatever they look like
}

// ReadValues merges files, then assignments, then those of strings.
func ReadValues(stdin io.Reader, from ValuesSource) (Values, error) {
	out := Values{}
	for _, f := range from.Files {
		data, err := readFile(stdin, f)
		if err != nil {
			return nil, WithNext(fmt.Errorf("read values: %w", err), "give --values the path of a YAML file, or - for standard input")
		}
		var v map[string]any
		if err := yaml.Unmarshal(data, &v); err != nil {
			return nil, WithNext(fmt.Errorf("parse values file %s: %w", f, err), "correct the YAML of the file")
		}
		out = merge(out, v)
	}
	for _, a := range from.Set {
		if err := strvals.ParseInto(a, out); err != nil {
			return nil, WithNext(fmt.Errorf("parse --set %q: %w", a, err), "write --set key=value, with dots between nested keys: --set proxy.accessLog=true")
		}
	}
	for _, a := range from.SetString {
		if err := strvals.ParseIntoString(a, out); err != nil {
			return nil, WithNext(fmt.Errorf("parse --set-string %q: %w", a, err), "write --set-string key=value, with dots between nested keys")
		}
	}
	return out, nil
}

// Over merges v over o: maps are merged, everything else is replaced.
func (v Values) Over(o Values) Values { return merge(o, v) }

func readFile(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

func merge(base, over map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(over))
	maps.Copy(out, base)
	for k, v := range over {
		b, isMap := out[k].(map[string]any)
		o, too := v.(map[string]any)
		if isMap && too {
			v = merge(b, o)
		}
		out[k] = v
	}
	return out
}

// WriteDefaults writes the chart's values file: all values, their defaults and what they mean.
func WriteDefaults(w io.Writer) error {
	data, err := manifests.Chart.ReadFile("chart/values.yaml")
	if err != nil {
		return fmt.Errorf("read the embedded chart: %w", err)
	}
	_, err = w.Write(data)
	return err
}
