"""Commands about image caches: create, get, delete."""

import pathlib
from typing import Annotated

import typer

from agent.cli import options, output
from agent.model import keys

app = typer.Typer()


@app.command()
@output.reported
def create(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Name of the cache. With TARGET: the image to accelerate.")
    ] = "",
    target: Annotated[
        str,
        typer.Argument(
            help="Another name for that image, which is pushed to the registry once the cache is"
            " built (as UCloud's script does)."
        ),
    ] = "",
    store: options.MaybeStore = None,
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    wait: options.Wait = True,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", help="Image that the cache holds. Repeatable."),
    ] = None,
    file: Annotated[
        str,
        typer.Option(
            "--file",
            "-f",
            help="File with ImageCache manifests, in place of NAME and --image; those of Alibaba"
            " Cloud and Tencent Cloud work as well. -: read from stdin.",
        ),
    ] = "",
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="What the cache may take in the store at most, in GiB.  [default: 20]"
        ),
    ] = None,
    secret: Annotated[
        list[pathlib.Path] | None,
        typer.Option(
            help="With --store: docker config JSON file with registry credentials. Repeatable."
        ),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            help="Namespace whose pods may use the cache, * for all. Repeatable. By default the"
            " namespaces of the pull secrets, with --secret only `default`; all namespaces where"
            " the cache needs no credentials."
        ),
    ] = None,
    pull_secret: Annotated[
        list[str] | None,
        typer.Option(
            help="NAMESPACE/NAME of a Secret in the cluster with registry credentials. Repeatable."
        ),
    ] = None,
    plain_http: Annotated[
        list[str] | None,
        typer.Option(help="Registry (HOST:PORT) that is reached without TLS. Repeatable."),
    ] = None,
    insecure: Annotated[
        list[str] | None,
        typer.Option(help="Registry whose certificate is not verified. Repeatable."),
    ] = None,
    ca: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="With --store: PEM file of certificate authorities besides the system's."
        ),
    ] = None,
    mirrors: Annotated[
        list[pathlib.Path] | None,
        typer.Option(
            help="With --store: folder in the layout of containerd's certs.d, or a registries.yaml"
            " of k3s or RKE2, that says which hosts have the images of a registry. Repeatable."
        ),
    ] = None,
    plugin_config: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--image-credential-provider-config",
            help="With --store: the kubelet's CredentialProviderConfig file; its plug-ins are"
            " asked for registry credentials.",
        ),
    ] = None,
    plugin_folder: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--image-credential-provider-bin-dir",
            help="Folder of these plug-ins; by default that of the file.",
        ),
    ] = None,
    signature_policy: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="With --store: policy.yaml that says whose cosign signature each image needs;"
            " others are not built."
        ),
    ] = None,
    acr_instance: Annotated[
        list[str] | None,
        typer.Option(
            help="[REGION:]cri-...: instance of Alibaba Cloud Container Registry to get"
            " credentials from. Repeatable."
        ),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            help="With --store: platform to build for, as linux/arm64. Repeatable. By default that"
            " of this machine; on a cluster those of its nodes."
        ),
    ] = None,
    retention_days: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            help="Days after which the cache is deleted; by default it is kept until you do.",
        ),
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, max=32, help="With --store: layers to build at the same time.")
    ] = 3,
    mkfs: options.Mkfs = options.MKFS,
    as_json: options.Json = False,
) -> None:
    """Create an image cache and show the progress of its build.

    On a cluster, a Job of the controller builds the images into the store. With --store they are
    built in this process; a folder that is empty or missing becomes a store.

    Example: uimgacc create tools --image registry.example.com/team/tools:1
    """
    from agent.cli.caches import create_command, create_flags

    if store is not None and target:
        raise output.UsageError("a TARGET is pushed by a cluster's controller, not to a --store")
    where = "a store" if store is not None else "a cluster"
    how = "TARGET" if target else "--file" if file else ""
    create_flags.refuse(context, where=where, how=how)
    wanted = create_command.Wanted(
        name=name,
        images=tuple(image or ()),
        file=file,
        size_gib=size,
        secrets=tuple(secret or ()),
        namespaces=tuple(namespace or ()),
        pull_secrets=tuple(pull_secret or ()),
        plain_http=frozenset(plain_http or ()),
        insecure=frozenset(insecure or ()),
        ca=ca,
        mirrors=tuple(mirrors or ()),
        plugin_config=plugin_config,
        plugin_folder=plugin_folder,
        signature_policy=signature_policy,
        acr_instances=tuple(acr_instance or ()),
        platforms=tuple(platform or ()),
        retention_days=retention_days,
        parallel=parallel,
        mkfs=mkfs,
    )
    if store is not None:
        create_command.create(store, wanted, as_json=as_json)
        return
    from agent.cli import cluster_access
    from agent.cli.caches import cluster_changes, image_actions

    cluster = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
    if target:
        image_actions.create(cluster, target, wanted, wait=wait, as_json=as_json)
    else:
        cluster_changes.create(cluster, wanted, wait=wait, as_json=as_json)


@app.command()
@output.reported
def get(
    name: Annotated[
        str, typer.Argument(help="Name or ID of a cache; by default all are listed.")
    ] = "",
    store: options.MaybeStore = None,
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    as_json: options.Json = False,
) -> None:
    """List image caches, or show one in detail."""
    if store is None:
        from agent.cli import cluster_access
        from agent.cli.caches import cluster_caches

        cluster = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
        if name:
            cluster_caches.show_one(cluster, name, as_json=as_json)
        else:
            cluster_caches.show_all(cluster, as_json=as_json)
        return
    from agent.cli.caches import store_caches

    if name:
        store_caches.show_one(store, name, as_json=as_json)
    else:
        store_caches.show_all(store, as_json=as_json)


@app.command()
@output.reported
def delete(
    name: Annotated[
        str,
        typer.Argument(
            help="Name or ID of a cache, or the image that was given to `create IMAGE TARGET`."
        ),
    ],
    store: options.MaybeStore = None,
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    wait: options.Wait = True,
    as_json: options.Json = False,
) -> None:
    """Delete an image cache.

    Its layers leave the store once no node uses them: on a cluster by themselves, with --store
    by `uimgacc store prune`. Running pods are not affected.
    """
    if store is None:
        from agent.cli import cluster_access
        from agent.cli.caches import cluster_changes

        cluster = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
        cluster_changes.delete(cluster, name, wait=wait, as_json=as_json)
        return
    from agent.cli.caches import store_caches

    store_caches.delete(store, name, as_json=as_json)
