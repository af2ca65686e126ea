"""The content-addressed tree on the shared file system, format 1 (docs/internals/store.md).

`layout` is path arithmetic, `decoding` turns files into trusted records,
`catalog` is how the node agent looks things up (async, with deadlines), `reading`
how a person's command or the builder does, `publishing` the write side,
`checking` the verifier. What may block for ever is in `blocking`, for
agent.kits.processes.workers.

Deleting: `claiming` is the builder's side, `retiring` a round of the collector, with
`marking` and `planning` (by `spooling`, in bounded memory) on what is wanted,
`generations` the files of its steps, `pruning` the same without a cluster.
"""
