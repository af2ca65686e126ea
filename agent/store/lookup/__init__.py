"""Reading a store: by the node agent and the snapshotter with deadlines, else directly."""
