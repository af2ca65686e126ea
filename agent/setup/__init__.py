"""What a node needs before it can serve: containerd's configuration, and a doctor.

`config` reads containerd's configuration and decides what to change (text in, text out),
`node` does it to a machine and undoes it, `slots` says how many nodes do it at once, `doctor`
checks one.
"""
