"""The proxy snapshotter that containerd talks to; a process of its own.

It must work with the API server, the registry and the node agent gone.
"""
