"""A fleet of agents before one API server; `python -m benchmarks fleet` runs it.

`members` is a process of many agents, `crew` drives such processes, `cluster` is the server with
the manifests, `scenes` is what happens, `table` shows the figures.
"""
