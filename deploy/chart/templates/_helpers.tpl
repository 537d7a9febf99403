{{- define "wirespeed.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "wirespeed.account" -}}
{{- default (include "wirespeed.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The labels of all objects of the release. */}}
{{- define "wirespeed.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- if not .Values.plain }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- end -}}

{{/* The pod selector of one DaemonSet or of the ServiceMonitor. Argument: (root, component). */}}
{{- define "wirespeed.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
{{- if not $root.Values.plain }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- end }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The pod selector of all agents, for their metrics. Their component is different in each node group; the name and
     the instance alone would also select the pods that uninstall. */}}
{{- define "wirespeed.withMetrics" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- if not .Values.plain }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
wirespeed/metrics: "true"
{{- end -}}

{{- define "wirespeed.image" -}}
{{- with .Values.image -}}
{{- .repository }}:{{ default $.Chart.AppVersion .tag }}{{ if .digest }}@{{ .digest }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The groups of nodes, as JSON: the default group first, then nodeGroups.groups. Each has `suffix` (appended to
     the names of its objects), `value` (of the node label, "" for the default group), `pools`, and `agent` (keys of
     agent.yaml). */}}
{{- define "wirespeed.groups" -}}
{{- $groups := list (dict "suffix" "" "value" "" "pools" .Values.pools "agent" dict) -}}
{{- if and .Values.nodeGroups.groups (not .Values.nodeGroups.label) -}}
{{- fail "nodeGroups.label: expected the key of a node label, for there are nodeGroups.groups" -}}
{{- end -}}
{{- range $value, $group := .Values.nodeGroups.groups -}}
{{- $suffix := printf "-%s" ($value | lower | replace "_" "-" | replace "." "-") -}}
{{- range $groups -}}
{{- if eq .suffix $suffix -}}
{{- fail (printf "nodeGroups.groups: the names of %q and of %q differ in nothing that a DaemonSet's name may have" .value $value) -}}
{{- end -}}
{{- end -}}
{{- $agent := dig "agent" dict $group -}}
{{- $groups = append $groups (dict "suffix" $suffix "value" $value "pools" (dig "pools" list $group) "agent" $agent) -}}
{{- end -}}
{{- toJson (dict "groups" $groups) -}}
{{- end -}}

{{/* agent.yaml of a group of nodes, without keys that have the agent's defaults. Argument: (root, group). */}}
{{- define "wirespeed.agent" -}}
{{- $root := index . 0 -}}
{{- $group := index . 1 -}}
{{- $agent := dict -}}
{{- with $root.Values -}}
{{- if .autoconf -}}
{{- $meta := dict -}}
{{- $autoconf := dict -}}
{{- if ne .node.cniBinDir "/opt/cni/bin" }}{{ $_ := set $meta "binDir" .node.cniBinDir }}{{ end -}}
{{- with .defaultNetworks }}{{ $_ := set $meta "defaultNetworks" . }}{{ end -}}
{{- if .namespaceIsolation -}}
{{- $_ := set $meta "namespaceIsolation" true -}}
{{- $_ := set $meta "globalNamespaces" (join "," .globalNamespaces) -}}
{{- end -}}
{{- if ne .node.cniConfDir "/etc/cni/net.d" }}{{ $_ := set $autoconf "cniConfigDir" .node.cniConfDir }}{{ end -}}
{{- if has "multus" .replace -}}
{{- $_ := set $autoconf "files" (list "00-wirespeed.conflist" .multus.conf) -}}
{{- $_ := set $autoconf "networkName" .multus.networkName -}}
{{- $_ := set $meta "lenientCapabilities" (list "ips" "mac" "infinibandGUID" "portMappings" "bandwidth") -}}
{{- end -}}
{{- if $meta }}{{ $_ := set $autoconf "meta" $meta }}{{ end -}}
{{- $_ := set $agent "autoconf" $autoconf -}}
{{- else if or .defaultNetworks .namespaceIsolation -}}
{{- fail "defaultNetworks and namespaceIsolation are written into the runtime's configuration: expected autoconf: true beside them" -}}
{{- end -}}
{{- with .readinessIndicatorFile }}{{ $_ := set $agent "readinessIndicatorFile" . }}{{ end -}}
{{- if ne .node.kubeletDir "/var/lib/kubelet" }}{{ $_ := set $agent "kubelet" .node.kubeletDir }}{{ end -}}
{{- if ne (toJson .node.runtimes) (toJson (list "/run/containerd/containerd.sock" "/run/crio/crio.sock")) -}}
{{- $_ := set $agent "runtimes" .node.runtimes -}}
{{- end -}}
{{- if .metrics.enabled }}{{ $_ := set $agent "metrics" (printf "%s:%v" .metrics.address .metrics.port) }}{{ end -}}
{{- with .web -}}
{{- if .enabled -}}
{{- if not (or .tlsSecret (hasPrefix "127." .address) (eq .address "[::1]")) -}}
{{- fail (printf "web.tlsSecret: tokens would be sent unencrypted to %s; expected the name of a Secret" .address) -}}
{{- end -}}
{{- $web := dict "address" (printf "%s:%v" .address .port) -}}
{{- if .tlsSecret -}}
{{- $_ := set $web "tlsCertificate" "/etc/wirespeed-web/tls.crt" -}}
{{- $_ := set $web "tlsKey" "/etc/wirespeed-web/tls.key" -}}
{{- end -}}
{{- $_ := set $agent "web" $web -}}
{{- end -}}
{{- end -}}
{{- $_ := set $agent "devicePlugin" "/etc/wirespeed/device-plugin.json" -}}
{{- $agent = mergeOverwrite $agent (deepCopy .agent) (deepCopy $group.agent) -}}
{{- end -}}
{{- toYaml $agent -}}
{{- end -}}

{{/* Scheduling of a group's pods: nodeSelector, affinity, tolerations, priority. Argument: (root, group). */}}
{{- define "wirespeed.placement" -}}
{{- $root := index . 0 -}}
{{- $group := index . 1 -}}
{{- with $root.Values -}}
nodeSelector:
{{- $selector := merge (dict "kubernetes.io/os" "linux") .nodeSelector }}
{{- if $group.value }}{{ $_ := set $selector .nodeGroups.label $group.value }}{{ end }}
  {{- toYaml $selector | nindent 2 }}
{{- $affinity := deepCopy .affinity }}
{{- if and .nodeGroups.groups (not $group.value) }}
{{- $others := dict "key" .nodeGroups.label "operator" "NotIn" "values" (keys .nodeGroups.groups | sortAlpha) }}
{{- $node := dig "nodeAffinity" dict $affinity }}
{{- $required := dig "requiredDuringSchedulingIgnoredDuringExecution" dict $node }}
{{- $terms := list }}
{{- range (dig "nodeSelectorTerms" (list dict) $required) }}
{{- $terms = append $terms (merge (dict "matchExpressions" (append (dig "matchExpressions" list .) $others)) .) }}
{{- end }}
{{- $node = merge (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms)) $node }}
{{- $affinity = merge (dict "nodeAffinity" $node) $affinity }}
{{- end }}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "wirespeed.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The directory to mount for the runtime's CNI configuration: the parent of .../net.d, because there are more
     configuration directories beside net.d, such as /etc/cni/multus. */}}
{{- define "wirespeed.confMount" -}}
{{- $dir := .Values.node.cniConfDir -}}
{{- if eq (base $dir) "net.d" }}{{ dir $dir }}{{ else }}{{ $dir }}{{ end -}}
{{- end -}}

{{/* The mounts that `wirespeed install`, `wirespeed uninstall` and the agent need. */}}
{{- define "wirespeed.installMounts" -}}
- {name: config, mountPath: /etc/wirespeed, readOnly: true}
# At the same paths as on the node: CNI configurations and the executed plugins refer to them.
- {name: cni-bin, mountPath: {{ .Values.node.cniBinDir }}}
- {name: cni-conf, mountPath: {{ include "wirespeed.confMount" . }}}
# IPAM leases, and the state of Multus, sriov-cni and userspace-cni if they are replaced.
- {name: cni-state, mountPath: /var/lib/cni}
{{- if and (has "multus" .Values.replace) (not (hasPrefix "/var/lib/cni/" .Values.multus.dir)) }}
- {name: multus-state, mountPath: {{ dir .Values.multus.dir }}}
{{- end }}
# The agent's socket for the shim, and the journal, which must survive restarts of the agent.
- {name: run, mountPath: /run/wirespeed}
# Records of the containers' resources. Unlike the journal, they survive a reboot.
- {name: records, mountPath: /var/lib/wirespeed}
- {name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}
{{- end -}}

{{/* The volumes of installMounts. Argument: (root, group). */}}
{{- define "wirespeed.installVolumes" -}}
{{- $root := index . 0 -}}
{{- $group := index . 1 -}}
- name: config
  configMap: {name: {{ include "wirespeed.name" $root }}{{ $group.suffix }}}
- name: cni-bin
  hostPath: {path: {{ $root.Values.node.cniBinDir }}, type: DirectoryOrCreate}
- name: cni-conf
  hostPath: {path: {{ include "wirespeed.confMount" $root }}, type: DirectoryOrCreate}
- name: cni-state
  hostPath: {path: /var/lib/cni, type: DirectoryOrCreate}
{{- if and (has "multus" $root.Values.replace) (not (hasPrefix "/var/lib/cni/" $root.Values.multus.dir)) }}
- name: multus-state
  hostPath: {path: {{ dir $root.Values.multus.dir }}, type: DirectoryOrCreate}
{{- end }}
- name: run
  hostPath: {path: /run/wirespeed, type: DirectoryOrCreate}
- name: records
  hostPath: {path: /var/lib/wirespeed, type: DirectoryOrCreate}
- name: netns
  hostPath: {path: /run/netns, type: DirectoryOrCreate}
{{- end -}}

{{/* The path options of `wirespeed install` and `wirespeed uninstall`. */}}
{{- define "wirespeed.places" -}}
{{- if ne .Values.node.cniBinDir "/opt/cni/bin" }}
- --bin-dir={{ .Values.node.cniBinDir }}
{{- end }}
{{- if has "multus" .Values.replace }}
- --multus-dir={{ .Values.multus.dir }}
{{- end }}
{{- end -}}
