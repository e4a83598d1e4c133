{{- define "labels" -}}
app.kubernetes.io/name: mtls-daemon
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: mtls-daemon
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "metricsPort" -}}
{{ last (splitList ":" .Values.config.metrics.listen) }}
{{- end }}

{{- define "cniSocket" -}}
{{ dig "cni" "socket" "/run/mtls-daemon/cni.sock" .Values.config }}
{{- end }}

{{/*
The daemon's configuration: what the values say of it, and what the chart knows
of its DaemonSet and of the network plug-in.
*/}}
{{- define "config" -}}
{{- $config := deepCopy .Values.config }}
{{- $_ := set $config.kubernetes "daemonset" .Release.Name }}
{{- if .Values.cni.enabled }}
{{- $exclude := .Values.cni.exclude | default (list .Release.Namespace "kube-system") }}
{{- $cni := dict "enabled" true "conf_dir" .Values.cni.confDir "bin_dir" .Values.cni.binDir "socket" (include "cniSocket" .) "exclude" $exclude }}
{{- $config = set $config "cni" $cni }}
{{- end }}
{{- include "toml" (dict "path" "" "table" $config) }}
{{- end }}

{{/*
A table in TOML: its own keys first, then the tables in it. Helm's toToml makes
every number a float, which is none of the configuration's types; what JSON
says of strings, whole numbers and lists TOML reads as it is.
*/}}
{{- define "toml" -}}
{{- $path := .path }}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (and (kindIs "slice" $value) $value (kindIs "map" (first $value)))) }}
{{ $key }} = {{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ toJson $value }}{{ end }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- $inner := empty $path | ternary $key (printf "%s.%s" $path $key) }}
{{- if kindIs "map" $value }}

[{{ $inner }}]
{{- include "toml" (dict "path" $inner "table" $value) }}
{{- else if and (kindIs "slice" $value) $value (kindIs "map" (first $value)) }}
{{- range $value }}

[[{{ $inner }}]]
{{- include "toml" (dict "path" $inner "table" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
