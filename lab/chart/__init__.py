"""The Helm chart charts/uimgacc, made from what `kubectl kustomize` makes of manifests/.

`python -m lab.chart` writes it anew; a test of tests/manifests compares. Each object is rendered
without and with each component (`renderings`), what differs gets the condition under which it does
(`variants`), and the result is written as a template (`templates`). What users set beside the
components is in `schema`.
"""
