"""`uimgacc advise`: what pulls cost, which images to cache next, and their ImageCaches."""

import contextlib
import dataclasses
import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from agent import errors
from agent.cli import cluster_access, output
from agent.cli.advice import advice_output, pod_secrets
from agent.cli.caches import cluster_changes, cluster_objects
from agent.cli.cluster import node_tally
from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object
from agent.control.page import node_savings
from agent.control.pulls import advice, image_costs, pull_book, pull_table, pull_watch
from agent.kits import units
from agent.model import cache_manifest, times
from agent.model import manifests as manifest_values

Form = Literal["table", "yaml", "json"]

_MOST = 5000
_SINCE = re.compile(r"([0-9]{1,4})(m|h|d)")
_HOURS = {"m": 1 / 60, "h": 1.0, "d": 24.0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line says: `hours` back, the `count` of images to cache next."""

    hours: float
    count: int
    events: bool
    apply: bool


def hours_of(text: str) -> float:
    """The hours that --since names; raise UsageError."""
    match = _SINCE.fullmatch(text.strip())
    hours = int(match[1]) * _HOURS[match[2]] if match else 0.0
    if not 0 < hours <= 24 * pull_table.DAYS:
        raise output.UsageError(f"--since {text}: expected a time such as 30m, 24h or 7d, up to 7d")
    return hours


def advise(target: cluster_access.Target, wanted: Wanted, *, form: Form) -> None:
    """Read, advise, create what is advised where that is wanted, and print it."""
    with _waiting(quiet=form != "table"):
        result = cluster_access.run(target, lambda client: _work(client, target, wanted))
    for remark in result.remarks:
        output.say(remark)
    if form == "json":
        output.show_json(advice_output.described(result))
    elif form == "yaml":
        print(advice_output.as_yaml(result.manifests), end="")
    else:
        advice_output.show(result)


@contextlib.contextmanager
def _waiting(*, quiet: bool) -> Iterator[None]:
    """Show a person that the cluster is being asked: of a large one, for a minute."""
    console = output.console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with console.status("asking the cluster what its pulls cost"):
        yield


async def _work(
    client: rest_client.Client, target: cluster_access.Target, wanted: Wanted
) -> advice_output.Result:
    costs, source = await _costs(client, target, wanted)
    cached = advice.Cached(await _objects(client))
    made = advice.advise(costs, cached, most=wanted.count)
    secrets = pod_secrets.PodSecrets(client)
    users = await secrets.users(made.next)
    remarks = [f"pods cannot be read: {secrets.problem}"] if secrets.problem else []
    manifests = []
    for draft in advice.drafts(made.next, users):
        body = cache_manifest.write(draft)
        try:
            cache_manifest.read(body)
        except manifest_values.ManifestError as error:
            # By a pod's pull secret of an impossible name, for instance.
            remarks.append(f"no cache for {', '.join(map(str, draft.images))}: {error}")
        else:
            manifests.append(body)
    saved = await _saved(client, target)
    unknown = [image for image, found in users.items() if found and None in found.values()]
    if wanted.apply:
        await _apply(client, manifests)
    return advice_output.Result(
        costs=costs,
        source=source,
        advice=made,
        manifests=manifests,
        unknown=unknown,
        remarks=remarks,
        saved=saved,
        applied=wanted.apply,
    )


async def _apply(client: rest_client.Client, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Create the ImageCaches; where one is refused, say which are there already."""
    applied: list[str] = []
    try:
        for each in manifests:
            key = await cluster_changes.apply(client, each)
            applied.append(key.name)
    except errors.AgentError:
        output.say(f"applied until then: {', '.join(applied) or 'none'}")
        raise


async def _costs(
    client: rest_client.Client, target: cluster_access.Target, wanted: Wanted
) -> tuple[image_costs.Costs, str]:
    """What pulls cost, by the controller's account, or by the events that there are."""
    now = times.now()
    since = now - datetime.timedelta(hours=wanted.hours)
    if not wanted.events:
        kept = await _book(client, target)
        if kept is not None:
            table = kept.table(most=_MOST)
            age = (now - kept.written).total_seconds()
            return table.costs(since, now), f"the controller's account, {units.span(age)} old"
    table = pull_table.PullTable(most=_MOST)
    await pull_watch.read_all(client, lambda pull: table.add(pull, client.now()))
    return table.costs(since, client.now()), "the events that the API server has"


async def _book(client: rest_client.Client, target: cluster_access.Target) -> pull_book.Book | None:
    """The controller's account; None, with a word on stderr, where there is none to go by."""
    try:
        kept = await pull_book.BookObject(client, namespace=target.namespace).read()
    except (refusals.Denied, pull_book.BookDamaged) as error:
        output.say(f"the controller's account cannot be read: {error}")
        return None
    if kept is None:
        output.say("the controller has no account of pulls yet: the events are read instead")
    return kept


async def _saved(
    client: rest_client.Client, target: cluster_access.Target
) -> node_tally.Savings | None:
    """What the agents say that caches have saved; None where none says so."""
    try:
        nodes = await node_savings.read(client, namespace=target.namespace)
    except refusals.Denied:
        return None
    day = client.now().date().isoformat()
    return node_tally.saved_by(nodes.values(), day=day) if nodes else None


async def _objects(client: rest_client.Client) -> Sequence[cache_object.CacheObject]:
    try:
        return await cluster_objects.read_all(client)
    except output.NotFound:
        output.say("uimgacc is not installed in this cluster: no image has a cache")
        return ()
