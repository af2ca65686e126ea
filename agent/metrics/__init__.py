"""Every metric of every role, defined once; docs/reference/metrics.md explains them to operators.

`registries` has the registry that each role exposes; the other modules have the metrics of one
subject each. Base units, `_total` for counters, no image, digest, node or pod label: the
cardinality is bounded by these files.
"""
