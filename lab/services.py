"""The lab's servers under one name, for tests, demo and benchmark.

with services.Registry(folder) as registry:
    with services.Containerd("2", registries=[registry.address]) as containerd:
        containerd.pull(f"{registry.address}/lab/large:1")
"""

from lab import processes
from lab.runtime import containerds, soci
from lab.web import registries

Registry = registries.Registry
Request = registries.Request
Containerd = containerds.Containerd
Proxy = containerds.Proxy
Soci = soci.Soci
LabError = processes.LabError
