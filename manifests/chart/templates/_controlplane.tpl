{{/*
A component of the control plane: its account, its Deployment and the PodDisruptionBudget. All of them run the controllers'
image, where the controllers may. The argument is a dict of root, component, replicas, resources, args and ports (texts), and
extraArgs (a list, may be missing).
*/}}
{{- define "tulle.controlPlane" -}}
{{- $name := printf "tulle-%s" .component }}
{{- $who := list .root .component }}
{{- $controller := .root.Values.controller }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "tulle.labels" $who | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "tulle.labels" $who | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "tulle.selector" $who | nindent 6 }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "tulle.labels" $who | nindent 4 }}
spec:
  replicas: {{ .replicas }}
  selector:
    matchLabels: {{- include "tulle.selector" $who | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  template:
    metadata:
      labels:
        {{- include "tulle.selector" $who | nindent 8 }}
        {{- with $controller.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .component }}
        {{- with $controller.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- with $controller.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .root.Values.image.pullSecrets }}
      imagePullSecrets: {{- include "tulle.pullSecrets" . | nindent 8 }}
      {{- end }}
      securityContext: {{- toYaml $controller.podSecurityContext | nindent 8 }}
      terminationGracePeriodSeconds: 30
      containers:
        - name: {{ .component }}
          image: {{ include "tulle.image" (list .root $controller.image) | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{- .args | nindent 12 }}
            - --log-level={{ .root.Values.log.level }}
            - --log-format={{ .root.Values.log.format }}
            {{- with .extraArgs }}{{ toYaml . | nindent 12 }}{{ end }}
          env: {{- include "tulle.podEnv" .root | nindent 12 }}
          ports: {{- .ports | nindent 12 }}
            - {name: metrics, containerPort: 15014, protocol: TCP}
            - {name: health, containerPort: 15015, protocol: TCP}
          readinessProbe:
            httpGet: {path: /readyz, port: health}
            periodSeconds: 2
            failureThreshold: 3
          livenessProbe:
            httpGet: {path: /healthz, port: health}
            initialDelaySeconds: 10
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          resources: {{- toYaml .resources | nindent 12 }}
          securityContext: {{- include "tulle.containerSecurityContext" .root | nindent 12 }}
      {{- with $controller.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $controller.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      affinity:
        {{- if $controller.affinity }}
        {{- toYaml $controller.affinity | nindent 8 }}
        {{- else }}
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector:
                  matchLabels: {{- include "tulle.selector" $who | nindent 20 }}
        {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: topology.kubernetes.io/zone
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "tulle.selector" $who | nindent 14 }}
{{- end }}
