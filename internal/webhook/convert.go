package webhook

import (
	"encoding/json"
	"errors"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// convert answers a ConversionReview. The API server takes all of the objects or none.
func (h *Handler) convert(r *apiextensionsv1.ConversionReview) error {
	if r.Request == nil {
		return errors.New("a ConversionReview without a request")
	}
	r.Response = &apiextensionsv1.ConversionResponse{UID: r.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, o := range r.Request.Objects {
		raw, err := converted(o.Raw, r.Request.DesiredAPIVersion)
		if err != nil {
			h.answers.WithLabelValues("convert", "failed").Inc()
			r.Response.ConvertedObjects = nil
			r.Response.Result = metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Message: err.Error()}
			r.Request = nil
			return nil
		}
		r.Response.ConvertedObjects = append(r.Response.ConvertedObjects, runtime.RawExtension{Raw: raw})
	}
	h.answers.WithLabelValues("convert", "ok").Inc()
	r.Request = nil
	return nil
}

func converted(raw []byte, apiVersion string) ([]byte, error) {
	var content map[string]any
	if err := utiljson.Unmarshal(raw, &content); err != nil {
		return nil, fmt.Errorf("decode an object to be converted to %s: %w", apiVersion, err)
	}
	content, err := smi.Convert(content, apiVersion)
	if err != nil {
		return nil, err
	}
	return json.Marshal(content)
}
