{{- /* What the templates that are made from manifests/ take from the values. Written by hand. */}}

{{- define "uimgacc.image" -}}
{{- with $.Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* SERVER:/PATH, or nothing where a claim is the store. */}}
{{- define "uimgacc.export" -}}
{{- with $.Values.store.nfs -}}
{{- if and .server (not $.Values.components.claim) -}}
{{ .server }}:{{ .path }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The server as the kubelet wants it: an IPv6 address without brackets. */}}
{{- define "uimgacc.server" -}}
{{- trimAll "[]" $.Values.store.nfs.server -}}
{{- end -}}

{{- /* What moves pods: as asked, or what this API server has. Without a server Helm knows its release only. */}}
{{- define "uimgacc.admission" -}}
{{- $group := "admissionregistration.k8s.io" -}}
{{- $kind := "MutatingAdmissionPolicy" -}}
{{- if eq $.Values.overlay "default-snapshotter" -}}
none-needed
{{- else if ne $.Values.admission "auto" -}}
{{ $.Values.admission }}
{{- else if or ($.Capabilities.APIVersions.Has (printf "%s/v1/%s" $group $kind)) (semverCompare ">=1.36.0-0" $.Capabilities.KubeVersion.Version) -}}
policy
{{- else if $.Capabilities.APIVersions.Has (printf "%s/v1beta1/%s" $group $kind) -}}
policy-v1beta1
{{- else if $.Values.components.controller -}}
webhook
{{- else -}}
none
{{- end -}}
{{- end -}}
