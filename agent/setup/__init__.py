"""What a node needs before it can serve: containerd's configuration, and a doctor.

`config` reads containerd's configuration, `editing` changes its text, `planning`
decides what to change (all three pure: text in, text out); `places` finds the
kubelet's containerd and its files, `journal` and `node` do it to a machine, `clearing`
leaves one without us, `checks` look at one. Nothing here runs while containers do.
"""
