"""Every metric of every role, defined once; docs/reference/metrics.md explains them to operators.

`registries` has the registry that each role exposes, and how metrics are named; the other modules
have the metrics of one subject each.
"""
