{{/*
What the operator does in the namespaces that it watches. A test compares these verbs with the
ones that the API server's audit log shows, so nothing stands here in advance.
Secrets: created and never read, so that holding this account opens nobody's Secret.
*/}}
{{- define "operator.rules" -}}
- apiGroups: [dsjob.dev]
  resources: [deepspeedjobs]
  verbs: [get, list, watch]
- apiGroups: [dsjob.dev]
  resources: [deepspeedjobs/status]
  verbs: [patch]
- apiGroups: [ray.io]
  resources: [rayclusters]
  # A server-side apply of what does not exist needs create beside patch.
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps, persistentvolumeclaims]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/*
Where all namespaces are watched: how the operator notices that KubeRay is installed later on.
Otherwise it asks from time to time.
*/}}
{{- define "operator.discoveryRules" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
{{- end }}

{{/* Nodes belong to no namespace: only a ClusterRole can grant this. */}}
{{- define "operator.capacityRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}
