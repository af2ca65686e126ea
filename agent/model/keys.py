"""Every name under which something is written to Kubernetes or containerd, once.

Labels, annotations, taints, finalizers, condition types, Leases, API groups. A name here is
part of what users, manifests and older versions see: it is never renamed. What a value means
is said beside the code that writes it.
"""

import pathlib

GROUP = "uimgacc.io"
ALIBABA_GROUP = "eci.alibabacloud.com"
TENCENT_GROUP = "eks.cloud.tencent.com"
API_VERSION = f"{GROUP}/v1"
"""Of an ImageCache in the native dialect."""

IMAGE_CACHE = "ImageCache"
"""Kind of the object, in each of the three groups."""

# --- Nodes ---

CAPABLE = "uimgacc"
"""Label "true" of a node that serves images from the store."""

CAPABLE_UCLOUD = "node.uk8s.ucloud.cn/uimgacc"
"""The same label under the name that UCloud's users know."""

CAPABLE_LABELS = (CAPABLE, CAPABLE_UCLOUD)
CAPABLE_LOCAL = "local"
"""Their value, in place of true, on a node that serves images from its own copies alone."""
"""Set to "true" while the node is capable, and absent otherwise."""

HANDLER_LABEL = "uimgacc.io/handler"
"""Label "true" while the runtime handlers of uimgacc start containers on the node, whether or not
the store is mounted. The RuntimeClasses select it: while the store is away, pods start
by a pull."""

USER_NAMESPACES_LABEL = "uimgacc.io/user-namespaces"
"""Label "true" of a node that has the handlers and whose pods in user namespaces (`hostUsers:
false`) share the layers as well; of a RuntimeClass: such pods may be moved to it."""

IMAGE_VOLUMES_LABEL = "uimgacc.io/image-volumes"
"""Label "true" of a node that has the handlers, and on which pods with image volumes
(`volumes[].image`) start under them; of a RuntimeClass: such pods may be moved to it."""

TWIN_LABEL = "handler.uimgacc.io/"
"""Prefix; followed by the name of a twin handler such as `uimgacc-nvidia`: the same for that one.
A node gets the twin of a handler that is installed after uimgacc some seconds later."""

NODE_CONDITION = "ImageAcceleration"
"""Condition that says in a sentence why the node is capable, or why not."""

GENERATION = "uimgacc.io/generation"
"""Annotation: the highest generation of deletions of which, and of all before, the node holds
nothing."""

HELD = "uimgacc.io/held"
"""Annotation: what keeps the node from the next generation, a JSON list of
"<cache or ->/<layer>: <holder>" in tags (agent.model.reports.Held)."""

SAVED = "uimgacc.io/saved"
"""Annotation of the Lease of a node: what its agent has saved since its start, as
agent.model.reports.Saved in JSON. Agents of earlier versions have it on the Node object."""

ENABLED = "uimgacc.io/enabled"
"""Label "false" of a node that the DaemonSets leave out (`uimgacc node disable`)."""

CORDONED = "uimgacc.io/cordoned"
"""Annotation "true" of a node that `uimgacc node --cordon` has cordoned."""

PREFIX = f"{GROUP}/"
"""What all labels and annotations of uimgacc begin with, except CAPABLE_LABELS and TWIN_LABEL."""

# --- Images ---

ARTIFACT = "uimgacc.io/artifact"
"""Annotation of the manifest of an image that was made of an artifact: the digest of its
manifest."""

ARTIFACT_TYPE = "uimgacc.io/artifact-type"
"""Annotation of such a manifest: the type of the artifact, a media type."""

# --- ImageCaches ---

START_PROFILE = "uimgacc.io/start-profile"
"""Annotation: how an image of the cache started on a node, until the controller has taken it
(agent.model.starts.profile_codec.Report)."""

AUTO_CREATED = "uimgacc.io/auto-created"
"""Label "true" of an ImageCache that an agent has created for a pod that matched none."""

CREATED_FOR = "uimgacc.io/created-for"
"""Annotation of such an object: the `namespace/name` of that pod."""

CREATED_FOR_UID = "uimgacc.io/created-for-uid"
"""Annotation of such an object: the UID of that pod."""

CREATED_ON = "uimgacc.io/created-on"
"""Annotation of such an object: the node of that pod. Admission holds agents to their own node."""

DIALECT = "uimgacc.io/dialect"
"""Annotation of such an object: the dialect that the pod used (a value of caches.Dialect)."""

LAST_MATCHED = "uimgacc.io/last-matched"
"""Annotation of such an object: when a pod was last served from it, RFC 3339.

Agents write it, the controller's expiry reads it. It is absent until the first
match, and up to six hours behind: of all nodes one writes it in six hours.
"""

FINALIZER = "uimgacc.io/cache"
"""Held while the store has the cache's record, or its layers wait for nodes; the wait is
bounded."""

REFRESH = "uimgacc.io/refresh"
"""Annotation: any new value has the images looked up and built again."""

REFRESH_HOURS = "uimgacc.io/refresh-hours"
"""Annotation: the same at this interval, for tags that move."""

REFRESH_SCHEDULE = "uimgacc.io/refresh-schedule"
"""Annotation: the same at the times of a schedule of cron (agent.control.caches.schedules)."""

REFRESH_ZONE = "uimgacc.io/refresh-time-zone"
"""Annotation: the time zone of that schedule, such as Asia/Shanghai; UTC without it."""

PLAIN_HTTP = "uimgacc.io/plain-http-registry"
"""Annotation: registries without TLS, separated by commas."""

INSECURE = "uimgacc.io/insecure-registry"
"""Annotation: registries whose certificate is not verified, separated by commas."""

ACR_INSTANCE_IDS = "k8s.aliyun.com/acr-instance-ids"
"""Annotation: instances of Alibaba's Container Registry, separated by commas."""

# Each of these is read under several names, the first one first.
REUSE_NAMES = (
    "uimgacc.io/reuse",
    "k8s.aliyun.com/imc-enable-reuse",
    "k8s.aliyun.com/auto-match-imagecache",
    "k8s.aliyun.com/eci-image-cache",
)
PLAIN_HTTP_NAMES = (
    PLAIN_HTTP,
    "k8s.aliyun.com/plain-http-registry",
    "eks.tke.cloud.tencent.com/registry-http-endpoint",
)
INSECURE_NAMES = (
    INSECURE,
    "k8s.aliyun.com/insecure-registry",
    "eks.tke.cloud.tencent.com/registry-insecure-skip-verify",
)
ACR_INSTANCE_NAMES = (ACR_INSTANCE_IDS, "k8s.aliyun.com/acr-instance-id")
"""Of ImageCaches and of pods."""
ARCHITECTURE_NAMES = ("uimgacc.io/cpu-arch", "k8s.aliyun.com/imc-cpu-arch")

# --- ImageCachePolicies ---

POLICY_VERSION = f"{GROUP}/v1alpha1"
IMAGE_CACHE_POLICY = "ImageCachePolicy"
"""Version and kind of the object."""

POLICY = "uimgacc.io/policy"
"""Label of an ImageCache: the policy that has it made."""

POLICY_SPEC = "uimgacc.io/policy-spec"
"""Annotation of such an object: the hash of what the policy said when it was applied."""

POLICY_MANAGER = "uimgacc-policies"
"""Field manager of what policies apply."""

# --- ImageCaches that UCloud's API has made ---

UCLOUD_LABEL = "uimgacc.io/ucloud"
"""Label "true" of such an object."""

ORIGINAL_IMAGE = "uimgacc.io/original-image"
TARGET_IMAGE = "uimgacc.io/target-image"
TARGET_STAGE = "uimgacc.io/target-stage"
TARGET_PROBLEM = "uimgacc.io/target-problem"
TARGET_LAYERS = "uimgacc.io/layers"
DELETION_REPORTED = "uimgacc.io/deletion-told"

# --- Nodes that write to the store ---

WRITER = "uimgacc.io.node-restriction.kubernetes.io/writer"
"""Label and taint of nodes for controller and builders (manifests/components/writers)."""

# --- Pods ---

CACHE = "uimgacc.io/image-cache"
"""Annotation of a pod: the cache that it asks for, or `auto`. As a label of a namespace it stands,
with the value `auto`, for the annotation on the namespace's pods."""

ALIBABA_PIN = "k8s.aliyun.com/eci-imc-id"
ALIBABA_PIN_LEGACY = "k8s.aliyun.com/eci-image-snapshot-id"
ALIBABA_AUTO = "k8s.aliyun.com/eci-auto-imc"
ALIBABA_AUTO_LEGACY = "k8s.aliyun.com/eci-image-cache"
ALIBABA_PERFECT = "k8s.aliyun.com/imc-perfect-match"
ALIBABA_COUNT = "k8s.aliyun.com/imc-match-count-request"
TENCENT_CACHE = "eks.tke.cloud.tencent.com/use-image-cache"

LOCAL = "uimgacc.io/local"
"""Annotation of a pod, and of an ImageCache: when layers are copied to the node's disk, a
caches.LocalMode."""

SERVE_STALE = "uimgacc.io/serve-stale"
"""Annotation of an ImageCache: whether pods are given what a tag was, a caches.ServeStale."""

NO_POD = "uimgacc.io/disabled"
"""Label that no pod has: while acceleration is switched off, admission policies select it."""

RUNTIME_HANDLER = "io.containerd.cri.runtime-handler"
"""Annotation of a pod, read by containerd 1.7 to 2.2: the handler to pull its images for."""

# --- RuntimeClasses ---

TWIN_OF = "uimgacc.io/twin-of"
"""Label of a RuntimeClass that is a twin: the class whose pods are moved to it; "" is none."""

NO_NODE = "uimgacc.io/no-node"
"""Label "true" of a twin while no node can take its pods: no pod is moved to it then."""

# --- Build Jobs ---

BUILDER_LABELS = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "builder"}
"""Labels of every build Job and its pods."""

JOB_CACHE_ID = "uimgacc.io/cache-id"
"""Label of a Job: the cache that it builds."""

JOB_OWNER = "uimgacc.io/image-cache"
"""Annotation of a Job: the ImageCache, as `group/name`."""

JOB_SPEC = "uimgacc.io/spec"
"""Annotation of a Job: the hash of the specification that it builds."""

JOB_PLATFORMS = "uimgacc.io/platforms"
"""Annotation of a Job: the platforms that it builds for."""

JOB_NAME = "batch.kubernetes.io/job-name"
"""Label of a Job's pods, by Kubernetes."""

# --- Leases, field managers, the installation ---

NAMESPACE = "uimgacc-system"
"""Where uimgacc is installed, unless its user chose another namespace."""

CONTROLLER_LEASE = "uimgacc-controller"
"""Lease of the controller that leads."""

SETUP_SLOT = "uimgacc-setup-slot-"
"""Prefix of Leases, followed by a number: each lets one node restart containerd."""

SETUP_SLOT_LABEL = "uimgacc.io/setup-slot"
"""Label "true" of such a Lease: each node has a Lease beside them."""

SETUP_PROBLEM = "uimgacc.io/setup-problem"
"""Annotation of such a Lease: why its node did not come back in time."""

WEBHOOK = "uimgacc-webhook"
"""Service of the controller's admission webhook, and the Secret with its certificate."""

WEBHOOK_CONFIGURATION = "uimgacc-pods"
"""MutatingWebhookConfiguration of that webhook, and binding of the admission policy."""

NODE_LEASE = "uimgacc-node-"
"""Prefix, followed by the name of a node: the Lease on which its agent writes what few read. Each
change of a Node object goes to everything that watches nodes."""

NODE_LEASE_LABELS = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "node"}
"""Labels of these Leases."""

OPERATION_LEASE = "uimgacc-operation"
"""Lease that is held while an operation of UCloud's API is decided and begun."""

AGENTS = "uimgacc-node"
"""DaemonSet of the agents and snapshotters."""

COMPONENT = "uimgacc"
"""Source of events, and field manager of objects that a person applies."""

CONTROLLER = "uimgacc-controller"
"""Deployment, field manager and user agent of the controller."""

# --- containerd ---

SNAPSHOTTER = "uimgacc"
"""Name of the snapshotter in containerd's configuration, and of the default runtime handler."""

NATIVE_SNAPSHOTTER = "erofs"
"""Name of containerd's own snapshotter of EROFS layers, and of its differ."""

NATIVE_FOLDER = pathlib.Path("/var/lib/uimgacc/native")
"""Where the links to layers are that it serves from the store."""

SNAPSHOT_REF = "containerd.io/snapshot.ref"
"""Label of a snapshot: the chain ID that it was asked for."""

SNAPSHOT_DIFF_ID = "containerd.io/snapshot/diff-id"
"""Label of a snapshot: by which containerd 2.4 looks for the layer in its caches."""

NATIVE_LAYER = "uimgacc.io/layer"
"""Label of a snapshot of containerd's own that is served from the store: the diff ID by which the
store has its file."""

UID_MAPPING = "containerd.io/snapshot/uidmapping"
GID_MAPPING = "containerd.io/snapshot/gidmapping"
"""Labels of the snapshot of a container in a user namespace: agent.mounts.idmaps.id_ranges."""

REMAP_IDS = "remap-ids"
"""Capability of a snapshotter in containerd's configuration: it answers those two labels."""

IMAGE_REF = "containerd.io/snapshot/cri.image-ref"
"""Label of a snapshot: the image whose pull asks for it; see agent.store.lookup.layer_requests."""

AGENT_PROOF = "containerd.io/snapshot/uimgacc.agent"
"""Label of a snapshot: proof that the agent asks for it; see agent.store.lookup.layer_requests."""

GC_SNAPSHOT = "containerd.io/gc.ref.snapshot."
"""Prefix of a label of an image's config, followed by a snapshotter: the snapshot to keep."""

GC_CONTENT = "containerd.io/gc.ref.content"
"""Label of a manifest: the content to keep with it."""

SOURCE = "containerd.io/distribution.source."
"""Prefix of a label of a blob, followed by a registry: its repositories, separated by commas.

containerd writes it for what it pulls, and mounts blobs by it in a push. Spegel and the embedded
registry of k3s advertise to other nodes what has one."""

GC_EXPIRE = "containerd.io/gc.expire"
"""Label of a lease: when it ends."""

SET_ASIDE = "uimgacc.io/set-aside.snapshot."
"""Prefix of a label of an image's config: GC_SNAPSHOT while the snapshots are lost."""

REGISTERED = "uimgacc.io/registered"
"""Label "true" of an image that the agent has registered."""

CRI_IMAGE = "io.cri-containerd.image"
"""Label "managed" of an image that CRI has seen."""

CRI_PINNED = "io.cri-containerd.pinned"
"""Label "pinned" of an image that the kubelet must not delete."""

SNAPSHOTTER_PLUGINS = "io.containerd.snapshotter.v1"
"""Type of containerd's snapshotter plugins."""

DIFFER_PLUGINS = "io.containerd.differ.v1"
"""Type of containerd's plugins that unpack layers."""

REBASE = "rebase"
"""Capability of a snapshotter: a snapshot gets its parent when it is committed."""
