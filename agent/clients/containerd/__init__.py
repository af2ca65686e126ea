"""containerd and the snapshotter over their sockets."""
