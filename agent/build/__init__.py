"""The builder: fetches images from a registry, converts their layers, publishes them in the store.

It runs in a Job of the controller, or in the process of `uimgacc create --store`. It never deletes
anything from the store (agent.store.gc does), and talks to no API server.
"""
