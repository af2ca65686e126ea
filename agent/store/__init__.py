"""The content-addressed tree on the shared file system, format 1 (docs/internals/store.md).

`layout` is path arithmetic, `decoding` turns files into records that can be trusted, `layer_file`
looks at one layer file, `integrity` verifies a whole store. `lookup` reads: the node agent and the
snapshotter with deadlines, commands and builders directly. `publish` writes, and has the claims of
builds. `gc` deletes, by the steps that docs/internals/store.md describes.
"""
