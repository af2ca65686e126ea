"""The large files of a layer, written by the builder beside mkfs.erofs, and put into its image.

`extents` compresses, `spool` writes the data while the tar streams, `grafting` makes one image of
both. Only `agent.build` uses it.
"""
