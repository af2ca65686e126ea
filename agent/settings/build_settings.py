"""The settings of `uimgacc build`."""

import dataclasses
import pathlib
from typing import Annotated

from agent.kits import flags, networks
from agent.settings import setting_types


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """`uimgacc build`, as the controller's Jobs run it.

    What is the same for all builds of a cluster may also come from the environment, which the
    cluster's own part of the Job sets (docs/use/builders.md).
    """

    store: Annotated[pathlib.Path, "Root folder of the store."]
    cache_id: Annotated[str, "ID of the cache.", flags.FlagOnly()]
    name: Annotated[str, "Name of the cache.", flags.FlagOnly()]
    image: Annotated[tuple[str, ...], "An image that the cache holds.", flags.FlagOnly()]
    capacity_gib: Annotated[int, "What the layers may take in the store.", flags.FlagOnly()]
    capacity_factor: Annotated[
        float,
        "So many times what the images have at the registry the layers may take as well.",
        flags.FlagOnly(),
    ] = 0.0
    capacity_most: Annotated[int, "Bytes up to which that holds.", flags.FlagOnly()] = 0
    platform: Annotated[
        tuple[str, ...],
        "Platform to build for, as linux/arm64; the builder's own where none is named.",
        flags.FlagOnly(),
    ] = ()
    some_platform: Annotated[
        bool, "An image need not have all of the platforms.", flags.FlagOnly()
    ] = False
    no_native_layers: Annotated[
        bool, "Refuse images with native EROFS layers.", flags.FlagOnly()
    ] = False
    namespace: Annotated[
        tuple[str, ...],
        "Namespace whose pods may use the cache; all where none is named.",
        flags.FlagOnly(),
    ] = ()
    retention_days: Annotated[
        int | None, "Days after which the cache is deleted.", flags.FlagOnly()
    ] = None
    plain_http: Annotated[tuple[str, ...], "Registry without TLS.", flags.FlagOnly()] = ()
    insecure: Annotated[
        tuple[str, ...], "Registry whose certificate is not verified.", flags.FlagOnly()
    ] = ()
    registry_deny: Annotated[
        str,
        "Networks, separated by commas, in which nothing is connected to; empty: none. The API"
        " server's Service is added.",
        setting_types.Networks,
        flags.FlagOnly(),
    ] = networks.OWN_HOST
    registry_allow: Annotated[
        tuple[str, ...], "Registry that may be in these networks all the same.", flags.FlagOnly()
    ] = ()
    mirrors: Annotated[
        tuple[pathlib.Path, ...],
        "Folder, as containerd's certs.d, or registries.yaml that says which hosts have the images"
        " of a registry.",
        flags.FlagOnly(),
    ] = ()
    signature_policy: Annotated[
        pathlib.Path | None,
        "File that says which images need whose signature; empty: all are built.",
        flags.FlagOnly(),
    ] = None
    ca: Annotated[
        pathlib.Path | None, "PEM file of certificate authorities besides the public ones."
    ] = None
    docker_configs: Annotated[
        pathlib.Path | None,
        "Folder of docker config JSON files with credentials.",
        flags.FlagOnly(),
    ] = None
    acr_instance: Annotated[
        tuple[str, ...],
        "Instance of Alibaba's Container Registry, as [REGION:]cri-...",
        flags.FlagOnly(),
    ] = ()
    image_credential_provider_config: Annotated[
        pathlib.Path | None, "The kubelet's CredentialProviderConfig: its plug-ins are asked, too."
    ] = None
    image_credential_provider_bin_dir: Annotated[
        pathlib.Path | None,
        "Folder of the programs of these plug-ins; empty: beside their configuration.",
    ] = None
    scratch: Annotated[
        pathlib.Path | None,
        "Local folder for the files of layers at work; empty: TMPDIR, else /tmp.",
        flags.FlagOnly(),
    ] = None
    scratch_bytes: Annotated[
        int | None,
        "What layers at work may take there together; empty: all but a reserve of the disk.",
        flags.FlagOnly(),
    ] = None
    parallel: Annotated[
        int,
        "Layers worked on at a time; each may take a processor and 40 MiB.",
        flags.FlagOnly(),
    ] = 3
    job: Annotated[
        str, "Name of the Job, under which the controller reads the report.", flags.FlagOnly()
    ] = ""
    termination_message: Annotated[
        pathlib.Path | None,
        "File for the reason of a failure, or for what the build vouches for.",
        flags.FlagOnly(),
    ] = None
    keys_json: Annotated[
        str,
        "Keys of the store, as JSON: a stored layer that none of them has signed is made again.",
        flags.FlagOnly(),
    ] = ""
