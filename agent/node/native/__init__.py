"""Images of the store on containerd's own EROFS snapshotter, without a snapshotter of uimgacc."""
