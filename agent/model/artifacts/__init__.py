"""OCI artifacts that are built as images: which files they have, and the image that stands for one.

Pure: nothing is read here. Artifacts without named files, charts and signatures for instance, are
refused.
"""
