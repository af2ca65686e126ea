"""The node agent: has the images of this node's pods present before the kubelet asks for them.

It never calls the snapshotter (agent.snapshotter): both know the store, the mount table and
containerd. So each goes on while the other is restarted.
"""
