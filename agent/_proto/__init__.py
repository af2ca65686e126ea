"""Generated gRPC stubs of the containerd API subset that we speak; see README.
"""
