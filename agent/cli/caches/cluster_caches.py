"""`uimgacc get` on a cluster: its image caches, as the Kubernetes API has them."""

from agent.cli import cluster_access, output
from agent.cli.caches import cluster_objects, image_actions
from agent.control.caches import cache_state
from agent.kits import units
from agent.model import times


def show_all(target: cluster_access.Target, *, as_json: bool) -> None:
    """Print all image caches, or with JSON how the acceleration is, as UCloud's API returns it."""
    if as_json:
        output.show_json(
            cluster_access.run(target, lambda client: image_actions.situation(client, target))
        )
        return
    read = cluster_access.run(target, cluster_objects.read_all)
    if not read:
        output.say("no image caches in this cluster")
        return
    made = output.table("KIND", "NAME", "CACHEID", "PHASE", "PROGRESS", "SIZE", "IMAGES", "AGE")
    for each in read:
        made.add_row(
            each.dialect.value,
            each.key.name,
            each.cache_id,
            cluster_objects.phase_of(each),
            f"{each.state.progress}%",
            units.size(each.state.size) if each.state.size else "-",
            str(len(each.request.images)) if each.request else "-",
            output.age(each.created.isoformat(), times.now()),
        )
    output.console().print(made)


def show_one(target: cluster_access.Target, name: str, *, as_json: bool) -> None:
    """Print an image cache with its images and its state."""
    each = cluster_access.run(target, lambda client: cluster_objects.find(client, name))
    if as_json:
        output.show_json(cluster_objects.described(each))
        return
    console = output.console()
    request = each.request
    keep = f"until {each.state.expires:%Y-%m-%d %H:%M} UTC" if each.state.expires else "for ever"
    who = "every namespace"
    if request is not None and request.namespaces is not None:
        who = ", ".join(request.namespaces)
    lines = {
        "Cache": each.cache_id,
        "Name": each.key.name,
        "Phase": f"{cluster_objects.phase_of(each)} {each.state.progress}%",
        "Says": each.state.message or "-",
        "In store": units.size(each.state.size),
        "Kept": keep,
        "Serves": who,
        "Last used": f"{output.age(each.matched.isoformat(), times.now())} ago"
        if each.matched
        else "-",
        "Tags": _tags(each.state.tags),
    }
    for title, value in lines.items():
        console.print(f"{title + ':':<10} {value}")
    console.print()
    made = output.table("IMAGE", "PULLED", "DIGEST")
    for image in each.state.images:
        made.add_row(image.image, units.size(image.size), image.digest[:19])
    console.print(made)


def _tags(tags: cache_state.Tags) -> str:
    """What the registries say of the tags of a cache."""
    if tags.problem:
        return f"unknown: {tags.problem}"
    now = times.now()
    confirmed = "-"
    if tags.confirmed is not None:
        confirmed = f"confirmed {output.age(tags.confirmed.isoformat(), now)} ago"
    moved = "; ".join(
        f"{each.image} is {each.digest[:19]} since {output.age(each.noticed.isoformat(), now)}"
        for each in tags.moved
    )
    return f"{confirmed}; {moved}" if moved else confirmed
