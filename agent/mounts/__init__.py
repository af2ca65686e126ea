"""Mounts on a node: layers (EROFS), overlays, the NFS mount of the store, and the mount table.

`devices` has the loop and dm-verity devices behind layers, `pages` the page cache, `idmaps` folders
that are shown with other owners. Nothing here knows records of the store or containerd.
"""
