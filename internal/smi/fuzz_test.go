package smi_test

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// FuzzDecode feeds any JSON object to Decode: it never panics, gives either an object or Problems, and what it gives
// keeps its promises.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"split.smi-spec.io/v1alpha4","kind":"TrafficSplit","metadata":{"name":"a"},"spec":{"service":"a","backends":[{"service":"b","weight":1}]}}`))
	f.Add([]byte(`{"apiVersion":"split.smi-spec.io/v1alpha1","kind":"TrafficSplit","metadata":{"name":"a"},"spec":{"service":"a","backends":[{"service":"b","weight":"1e9"}]}}`))
	f.Add([]byte(`{"apiVersion":"specs.smi-spec.io/v1alpha4","kind":"HTTPRouteGroup","metadata":{"name":"a"},"spec":{"matches":[{"name":"m","headers":[{"a":"b"}]}]}}`))
	f.Add([]byte(`{"apiVersion":"specs.smi-spec.io/v1alpha4","kind":"TCPRoute","metadata":{"name":"a"},"spec":{"matches":{"ports":[1]}}}`))
	f.Add([]byte(`{"apiVersion":"access.smi-spec.io/v1alpha2","kind":"TrafficTarget","metadata":{"name":"a"},"spec":{"destination":{"kind":"ServiceAccount","name":"b","port":1},"rules":[{"kind":"TCPRoute","name":"c"}],"sources":[{"kind":"ServiceAccount","name":"d"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var content map[string]any
		if json.Unmarshal(raw, &content) != nil {
			t.Skip()
		}
		object, problems := smi.Decode(content)
		if (object == nil) == (len(problems) == 0) {
			t.Fatalf("got the object %v and the problems %v", object, problems)
		}
		for _, p := range problems {
			if p.Reason == "" || p.Message == "" || len(p.Message) > 1024 {
				t.Errorf("got the problem %+v", p)
			}
		}
		if s, ok := object.(smi.TrafficSplit); ok {
			for _, b := range s.Backends {
				if b.Service == "" || b.Weight < 0 || b.Weight > math.MaxInt32 {
					t.Errorf("got the backend %+v", b)
				}
			}
		}
		if again, _ := smi.Decode(content); !reflect.DeepEqual(object, again) {
			t.Errorf("decoded to %v, then to %v", object, again)
		}
	})
}

// FuzzConvert feeds any JSON object to Convert: it never panics or changes what it is given, and what was converted can
// be converted back.
func FuzzConvert(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"split.smi-spec.io/v1alpha4","kind":"TrafficSplit","metadata":{"name":"a"},"spec":{"service":"a","backends":[{"service":"b","weight":1}],"matches":[{"kind":"HTTPRouteGroup","name":"g"}]}}`))
	f.Add([]byte(`{"apiVersion":"split.smi-spec.io/v1alpha1","kind":"TrafficSplit","metadata":{"name":"a"},"spec":{"service":"a","backends":[{"service":"b","weight":"1500m"}]}}`))
	f.Add([]byte(`{"apiVersion":"specs.smi-spec.io/v1alpha1","kind":"HTTPRouteGroup","metadata":{"name":"a","annotations":{"tulle.dev/smi-newer":"{\"headers\":[{\"match\":\"m\",\"number\":1,\"headers\":{\"a\":\"b\"}}]}"}},"matches":[{"name":"m"}]}`))
	f.Add([]byte(`{"apiVersion":"specs.smi-spec.io/v1alpha4","kind":"TCPRoute","metadata":{"name":"a"},"spec":{"matches":{"ports":[1]}}}`))
	f.Add([]byte(`{"apiVersion":"access.smi-spec.io/v1alpha1","kind":"TrafficTarget","metadata":{"name":"a"},"destination":{"kind":"ServiceAccount","name":"b","port":1},"specs":[{"kind":"TCPRoute","name":"c"}],"sources":[{"kind":"ServiceAccount","name":"d"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var content, before map[string]any
		if utiljson.Unmarshal(raw, &content) != nil || utiljson.Unmarshal(raw, &before) != nil {
			t.Skip()
		}
		group, own, _ := strings.Cut(fmt.Sprint(content["apiVersion"]), "/")
		for n := 1; n <= 4; n++ {
			there, err := smi.Convert(content, version(group, n))
			if !reflect.DeepEqual(before, content) {
				t.Fatalf("changed what it was given: %v", content)
			}
			if err != nil {
				continue
			}
			if _, err := smi.Convert(there, group+"/"+own); err != nil {
				t.Fatalf("there, and not back: %v", err)
			}
		}
	})
}
