"""What a node needs before it can serve: containerd's configuration, and a doctor.

`config` reads containerd's configuration, `editing` changes its text, `planning`
decides what to change (all three pure: text in, text out); `journal` and `node`
do it to a machine, `checks` look at one. Nothing here runs while containers do.
"""
