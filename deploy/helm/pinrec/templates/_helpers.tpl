{{- define "pinrec.name" -}}
{{- printf "%s-%s" .root.Release.Name .part | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name under which other pods find a part. */}}
{{- define "pinrec.host" -}}
{{- printf "%s.%s.svc.%s" (include "pinrec.name" .) .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{- define "pinrec.selector" -}}
app.kubernetes.io/name: pinrec
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "pinrec.labels" -}}
{{ include "pinrec.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "pinrec.image" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* Of every pod: no token, no root, and pods of one kind on different machines where there are several. */}}
{{- define "pinrec.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "pinrec.selector" . | nindent 8 }}
{{- end -}}

{{- define "pinrec.container-security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end -}}

{{/* What `pinrec serve` writes to beside its data: shared memory, temporary files, logs. */}}
{{- define "pinrec.server-volumes" -}}
- name: shared-memory
  emptyDir: { medium: Memory, sizeLimit: {{ .Values.replicas.sharedMemory }} }
- name: temporary
  emptyDir: {}
- name: logs
  emptyDir: {}
- name: data
  persistentVolumeClaim: { claimName: {{ .Values.data.claim }}, readOnly: true }
{{- end -}}

{{- define "pinrec.server-mounts" -}}
- { name: shared-memory, mountPath: /dev/shm }
- { name: temporary, mountPath: /tmp }
- { name: logs, mountPath: /var/log/pinrec }
- { name: data, mountPath: /data, readOnly: true }
{{- end -}}

{{- define "pinrec.server-ports" -}}
- { name: grpc, containerPort: 8001 }
- { name: http, containerPort: 8000 }
- { name: metrics, containerPort: 8002 }
{{- end -}}

{{/* A stage alone answers no clients: it is ready once the model that bears the name of its release is loaded. */}}
{{- define "pinrec.stage-probes" -}}
startupProbe:
  exec: &loaded
    command:
      - python3
      - -c
      - import json, urllib.request as r; assert any("__" in m["name"] for m in json.load(r.urlopen("http://127.0.0.1:8000/v2/models/stats", timeout=3))["model_stats"])
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div .Values.startSeconds 5 }}
readinessProbe:
  exec: *loaded
  periodSeconds: 10
  timeoutSeconds: 5
livenessProbe:
  httpGet: { path: /v2/health/live, port: http }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}
