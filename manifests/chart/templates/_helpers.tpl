{{/* Labels of every object; the argument is (list context component). */}}
{{- define "tulle.labels" -}}
{{- $root := index . 0 -}}
{{ include "tulle.selector" . }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end }}

{{/* Labels that select the pods of a component. They never change: selectors are immutable. */}}
{{- define "tulle.selector" -}}
app.kubernetes.io/name: tulle
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Name of a cluster-scoped object; two meshes in one cluster have different namespaces. */}}
{{- define "tulle.clusterName" -}}
{{ index . 1 }}.{{ (index . 0).Release.Namespace }}
{{- end }}

{{- define "tulle.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "tulle.pullSecrets" -}}
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "tulle.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What a process knows about its pod. */}}
{{- define "tulle.podEnv" -}}
- name: TULLE_POD_NAME
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}
- name: TULLE_POD_NAMESPACE
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}
- name: TULLE_POD_UID
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.uid}}
- name: TULLE_POD_IP
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}
- name: TULLE_NODE_NAME
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}
{{- end }}

{{/* The last labels of the zones. */}}
{{- define "tulle.zoneNamespaces" -}}
{{- $out := list -}}
{{- range .Values.zones }}{{ $out = append $out (splitList "." . | last) }}{{ end -}}
{{- $out | uniq | sortAlpha | toJson -}}
{{- end }}

{{/* Who certifies identities: tulle, spire or off. Stock Traefik has none. */}}
{{- define "tulle.identityMode" -}}
{{ eq .Values.proxy.engine "traefik" | ternary "off" .Values.identity.mode }}
{{- end }}

{{/* How calls get to the own node's proxy: prefer-same-node or local. */}}
{{- define "tulle.firstHop" -}}
{{- if ne .Values.addresses.firstHop "auto" -}}
{{ .Values.addresses.firstHop }}
{{- else if semverCompare ">=1.34.0-0" .Capabilities.KubeVersion.Version -}}
prefer-same-node
{{- else -}}
local
{{- end -}}
{{- end }}
