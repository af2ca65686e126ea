"""gRPC stubs of the part of containerd's API that is used, made by agent._proto.generate."""
