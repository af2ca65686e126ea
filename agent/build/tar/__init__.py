"""A layer's tar: read as Go reads it, written as mkfs.erofs understands it."""
