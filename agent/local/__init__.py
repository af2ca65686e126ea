"""The node's own copies of layers, in `<snapshotter's root>/local`, laid out as the store is.

`copy_paths` is path arithmetic for every process, also for workers. `budget` decides what is
copied and removed, `copying` and `disk` do it. `mirror` keeps records of images,
for the node to serve them without the store. The agent alone writes there (agent.node.near); the
snapshotter reads.
"""
