"""Layers that are EROFS images already: taken as they are, once they are safe to mount.

Only `agent.build` uses it.
"""
