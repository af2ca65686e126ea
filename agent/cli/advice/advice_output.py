"""What `uimgacc advise` prints."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from agent.cli import output
from agent.cli.cluster import node_tally
from agent.control.pulls import advice, image_costs
from agent.kits import units
from agent.model import times

_SHOWN = 20
_MOST_SAVED = 5000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is to be shown. `source` says in words where the costs are from.

    `unknown` are images of whose pods none was there to be asked, `saved` is what the agents say
    that caches have saved; None where none says so.
    """

    costs: image_costs.Costs
    source: str
    advice: advice.Advice
    manifests: Sequence[Mapping[str, Any]]
    unknown: Sequence[str] = ()
    remarks: Sequence[str] = ()
    applied: bool = False
    saved: node_tally.Savings | None = None

    @property
    def saved_today(self) -> Mapping[str, node_tally.ImageSum]:
        """What caches have saved today, by image."""
        images = self.saved.most(_MOST_SAVED) if self.saved is not None else ()
        return {each.image: each for each in images}


def show(result: Result) -> None:
    """Print the table, the sums, and what to cache next."""
    console = output.console()
    if not result.costs.pulls:
        console.print(f"no pulls of images are known ({result.source})")
        return
    made = output.table(
        "IMAGE", "PULLS", "NODES", "TIME", "BYTES", "CACHED", "WOULD SAVE", "SAVED TODAY"
    )
    saved = result.saved_today
    for each in result.advice.images[:_SHOWN]:
        made.add_row(
            each.cost.image,
            str(each.cost.pulls),
            str(each.cost.nodes or units.UNKNOWN),
            units.span(each.cost.seconds),
            units.size(each.cost.downloaded) if each.cost.downloaded else units.UNKNOWN,
            each.verdict.value,
            units.span(each.seconds) if each.seconds else units.UNKNOWN,
            units.span(saved[each.cost.image].seconds)
            if each.cost.image in saved
            else units.UNKNOWN,
        )
    console.print(made)
    console.print()
    for line in (*_sums(result), *_next(result)):
        console.print(line)


def _sums(result: Result) -> Iterator[str]:
    costs = result.costs
    more = len(costs.images) - _SHOWN
    yield (
        f"In all{f', with {more} more images' if more > 0 else ''}: {costs.pulls} pulls took"
        f" {units.span(costs.seconds)} and downloaded {units.size(costs.downloaded)} since"
        f" {costs.since:%Y-%m-%d %H:%M} UTC ({result.source})."
    )
    if result.saved is not None:
        ever, today = result.saved.ever, result.saved.today
        yield (
            f"Caches have saved {units.span(today.seconds)} and {units.size(today.size)} today,"
            f" {units.span(ever.seconds)} and {units.size(ever.size)} since the agents' start, as"
            " these report it. By image: uimgacc status."
        )


def _next(result: Result) -> Iterator[str]:
    chosen = result.advice.next
    if not chosen:
        yield "No further image is worth a cache."
        return
    spared, size = sum(each.seconds for each in chosen), sum(each.size for each in chosen)
    yield ""
    yield (
        f"With {_count(len(chosen), 'more image')} in caches, pods would have waited about"
        f" {units.span(spared)} less ({spared / result.costs.seconds:.0%} of all), and"
        f" {units.size(size)} would not have been downloaded:"
    )
    for number, each in enumerate(chosen, 1):
        yield (
            f"{number:>3}. {each.cost.image}: {each.cost.downloads} downloads of"
            f" {units.duration(each.cost.typical)} (median), about {units.span(each.seconds)} less"
        )
    yield (
        f"Estimate: downloads x (median - {advice.READY:g} s). It holds for pods that ask for a"
        " cache, on nodes that serve it, if the fleet goes on as it did."
    )
    for image in result.unknown:
        yield f"Pods of {image} are gone: whether they used pull secrets is not known."
    yield ""
    for body in result.manifests:
        secrets = body["spec"].get("imagePullSecrets", ())
        using = f", with the pull secrets {', '.join(secrets)}" if secrets else ""
        yield (
            f"{'Applied' if result.applied else 'Would apply'} the ImageCache"
            f" {body['metadata']['name']}: {_count(len(body['spec']['images']), 'image')}{using}"
        )
    if not result.applied:
        yield "--apply creates them, --yaml prints them."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_yaml(manifests: Sequence[Mapping[str, Any]]) -> str:
    """The ImageCaches as documents for `kubectl apply -f -`."""
    return "---\n".join(yaml.safe_dump(each, sort_keys=False) for each in manifests)


def described(result: Result) -> dict[str, Any]:
    """What --json prints; part of the interface."""
    costs, saved = result.costs, result.saved_today
    return {
        "since": times.stamp(costs.since),
        "source": result.source,
        "pulls": costs.pulls,
        "seconds": round(costs.seconds, 3),
        "bytes": costs.downloaded,
        "images": [_image(each, saved) for each in result.advice.images],
        "saved": None
        if result.saved is None
        else {"seconds": result.saved.ever.seconds, "bytes": result.saved.ever.size},
        "next": [each.cost.image for each in result.advice.next],
        "manifests": list(result.manifests),
        "applied": result.applied,
    }


def _image(each: advice.Assessed, saved: Mapping[str, node_tally.ImageSum]) -> dict[str, Any]:
    cost = each.cost
    today = saved.get(cost.image)
    return {
        "image": cost.image,
        "pulls": cost.pulls,
        "downloads": cost.downloads,
        "nodes": cost.nodes,
        "seconds": round(cost.seconds, 3),
        "median_seconds": round(cost.typical, 3),
        "bytes": cost.downloaded,
        "size": cost.size,
        "namespaces": sorted(cost.pods),
        "verdict": each.verdict.name.lower(),
        "would_save_seconds": round(each.seconds, 3),
        "would_save_bytes": each.size,
        "saved_today_seconds": round(today.seconds, 3) if today is not None else 0.0,
    }
