package webhook

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// validate answers an AdmissionReview: an object that the mesh would set aside is refused, with what would be its Problem.
// What is wrong beside other objects is a warning, and so is everything where the object was as wrong before: it must
// still be possible to label or end it.
func (h *Handler) validate(r *admissionv1.AdmissionReview) error {
	q := r.Request
	if q == nil {
		return errors.New("an AdmissionReview without a request")
	}
	r.Response, r.Request = &admissionv1.AdmissionResponse{UID: q.UID, Allowed: true}, nil
	if q.Operation != admissionv1.Create && q.Operation != admissionv1.Update {
		h.answers.WithLabelValues("validate", "allowed").Inc()
		return nil
	}
	content, err := decode(q.Object.Raw)
	if err != nil {
		return err
	}
	object, problems := smi.Decode(named(content))
	switch {
	case len(problems) > 0 && !h.spares(q, content):
		r.Response.Allowed = false
		r.Response.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: text(problems)}
		h.answers.WithLabelValues("validate", "refused").Inc()
		return nil
	case object != nil && h.config.Judge != nil:
		problems = h.config.Judge(object)
	}
	for _, p := range problems {
		r.Response.Warnings = append(r.Response.Warnings, fmt.Sprintf("%s: %s", p.Reason, p.Message))
	}
	result := "allowed"
	if len(problems) > 0 {
		result = "warned"
	}
	h.answers.WithLabelValues("validate", result).Inc()
	return nil
}

func decode(raw []byte) (map[string]any, error) {
	var content map[string]any
	if err := utiljson.Unmarshal(raw, &content); err != nil {
		return nil, fmt.Errorf("decode the object: %w", err)
	}
	return content, nil
}

// named gives an object that is to get its name from the API server one, so that it can be judged.
func named(content map[string]any) map[string]any {
	metadata, _ := content["metadata"].(map[string]any)
	if prefix, _ := metadata["generateName"].(string); metadata["name"] == nil && prefix != "" {
		metadata = maps.Clone(metadata)
		metadata["name"] = prefix + "x"
		content = maps.Clone(content)
		content["metadata"] = metadata
	}
	return content
}

// spares says whether an object that makes no sense may be written all the same.
func (h *Handler) spares(q *admissionv1.AdmissionRequest, content map[string]any) bool {
	if h.config.Foreign != nil && h.config.Foreign(q.Resource.Group, q.Resource.Resource) {
		return true
	}
	if q.Operation != admissionv1.Update {
		return false
	}
	metadata, _ := content["metadata"].(map[string]any)
	old, err := decode(q.OldObject.Raw)
	return metadata["deletionTimestamp"] != nil || err == nil && reflect.DeepEqual(body(old), body(content))
}

// body is an object without what says nothing about traffic.
func body(content map[string]any) map[string]any {
	out := maps.Clone(content)
	delete(out, "metadata")
	delete(out, "status")
	return out
}

// text is what people read who try to write the object.
func text(problems []problem.Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, string(p.Reason)+": "+strings.TrimSuffix(p.Message, "; the object is ignored"))
	}
	return strings.Join(lines, "; ")
}
