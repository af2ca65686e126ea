"""The content-addressed tree on the shared file system, format 1 (docs/store.md).

`layout` is path arithmetic, `records` the typed files, `reading` and
`publishing` the two sides of it. Callers run what touches the tree in
agent.kits.workers; nothing here is async.
"""
