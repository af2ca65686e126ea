{{- /* Made by `python -m lab.chart` from manifests/: change it there. */}}
{{- define "uimgacc.components" -}}
{{- $on := deepCopy $.Values.components -}}
{{- if and (index $on "api") (not $on.controller) -}}
{{- fail "components.api needs components.controller" -}}
{{- end -}}
{{- if and (index $on "claim") (not $on.controller) -}}
{{- fail "components.claim needs components.controller" -}}
{{- end -}}
{{- if and (index $on "mirrors") (not $on.controller) -}}
{{- fail "components.mirrors needs components.controller" -}}
{{- end -}}
{{- if and (index $on "mirrors-node") (not $on.controller) -}}
{{- fail "components.mirrors-node needs components.controller" -}}
{{- end -}}
{{- if and (index $on "push") (not $on.controller) -}}
{{- fail "components.push needs components.controller" -}}
{{- end -}}
{{- if and (index $on "writers") (not $on.controller) -}}
{{- fail "components.writers needs components.controller" -}}
{{- end -}}
{{- if and (index $on "k3s") (index $on "rke2") -}}
{{- fail "components.k3s and components.rke2 exclude each other" -}}
{{- end -}}
{{- if and (index $on "mirrors") (index $on "mirrors-node") -}}
{{- fail "components.mirrors and components.mirrors-node exclude each other" -}}
{{- end -}}
{{- $_ := set $on "default-snapshotter" (eq $.Values.overlay "default-snapshotter") -}}
{{- $admission := include "uimgacc.admission" $ -}}
{{- $_ := set $on "admission-v1beta1" (eq $admission "policy-v1beta1") -}}
{{- $_ := set $on "webhook" (eq $admission "webhook") -}}
{{- $_ := set $on "no-admission" (eq $admission "none") -}}
{{- toJson $on -}}
{{- end -}}
