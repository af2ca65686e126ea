"""The files of an artifact on their way to mkfs.erofs: one tar of all of them.

Which files those are is in `agent.model.artifacts`. Only `agent.build` uses it.
"""
