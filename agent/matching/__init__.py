"""Which cache serves a pod, how fully, and why.

Pure functions on values of agent.model: no I/O, no clock. The agent decides by them, and
`uimgacc match`, `uimgacc why` and the admission webhook use the same rules.
"""
