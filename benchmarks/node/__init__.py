"""A node: whole images pulled and read, pods, and the snapshotter alone."""
