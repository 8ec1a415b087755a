{{- define "crsc.labels" -}}
app.kubernetes.io/part-of: crsc
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- define "crsc.image" -}}
{{ .root.Values.images.registry }}/{{ .name }}:{{ .root.Values.images.tag }}
{{- end }}
{{- define "crsc.members" -}}
{{- range $i, $unused := until (int .Values.logd.replicas) }}{{ if $i }},{{ end }}{{ add1 $i }}=crsc-logd-{{ add1 $i }}.crsc-logd.{{ $.Release.Namespace }}.svc:7400{{ end }}
{{- end }}
{{- define "crsc.servers" -}}
{{- range $i, $unused := until (int .Values.logd.replicas) }}{{ if $i }},{{ end }}crsc-logd-{{ add1 $i }}.crsc-logd.{{ $.Release.Namespace }}.svc:7400{{ end }}
{{- end }}
{{- define "crsc.logdNames" -}}
crsc-logd.{{ .Release.Namespace }}.svc{{ range $i, $unused := until (int .Values.logd.replicas) }},crsc-logd-{{ add1 $i }}.crsc-logd.{{ $.Release.Namespace }}.svc{{ end }}
{{- end }}
{{- define "crsc.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
{{- define "crsc.nobody" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
