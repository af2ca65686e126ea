"""A machine of its own for tests: User Mode Linux, a real kernel as a process, up in a second.

The kernels that tests run on often have no NFS client, and a machine whose
NFS server is stopped must not be the one that the tests need afterwards. The
guest's root is the machine's own, read-only, so that everything of the lab is
where it is outside.
"""
