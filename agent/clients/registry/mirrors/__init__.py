"""Which hosts have the images of a registry: containerd's hosts.toml, k3s's registries.yaml.

Values and parsers, and the folder that they are read from; who asks the hosts is in the folder
above.
"""
