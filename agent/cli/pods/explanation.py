"""Showing a decision to a person (`uimgacc match`) and to a program (`--json`)."""

from collections.abc import Iterable, Mapping

import rich.console
import rich.table
import rich.text

from agent.kits import units
from agent.matching import annotations, decisions, runtimes
from agent.model import keys

_STYLES = {
    decisions.Outcome.HIT: "bold green",
    decisions.Outcome.PARTIAL: "bold yellow",
    decisions.Outcome.MISS: "bold red",
    decisions.Outcome.NOT_READY: "bold red",
    decisions.Outcome.FORBIDDEN: "bold red",
    decisions.Outcome.NOT_ASKED: "dim",
}


def explain(
    console: rich.console.Console, decision: decisions.Decision, confirmed: Mapping[str, str]
) -> None:
    """Print what the store does for a pod, image by image, and which caches were considered.

    `confirmed` is when the tags of caches were last found to be as cached, by the caches' IDs.
    """
    pod = decision.pod
    title = rich.text.Text(f"{pod.namespace}/{pod.name}: ", style="bold")
    title.append(_word(decision.outcome), style=_STYLES[decision.outcome])
    console.print(title)
    for line in _lines(decision):
        console.print(rich.text.Text(line))
    tables = [_image_table(decision, confirmed)]
    if decision.candidates:
        tables.append(_candidate_table(decision.candidates))
    if decision.events:
        tables.append(_event_table(decision))
    for table in tables:
        console.print()
        console.print(table)


def to_json(decision: decisions.Decision, confirmed: Mapping[str, str]) -> dict[str, object]:
    """The decision as an object that JSON can hold; the keys are part of the interface.

    `confirmed` as in `explain`.
    """
    pod, request = decision.pod, decision.request
    auto = decision.auto_create
    return {
        "pod": {"namespace": pod.namespace, "name": pod.name, "runtimeClass": pod.runtime_class},
        "request": {
            "mode": request.mode.value,
            "dialect": request.dialect.value,
            "key": request.key,
            "cache": request.cache,
            "perfectMatch": request.perfect,
            "minimumMatches": request.at_least,
            "remarks": list(request.remarks),
        },
        "outcome": decision.outcome.value,
        "summary": decision.summary,
        "cacheId": decision.reported or None,
        "acceleratedRuntime": runtimes.uses_snapshotter(pod),
        "images": [
            {**_image_json(image, confirmed), "volume": image.image in pod.volume_images}
            for image in decision.images
        ],
        "candidates": [
            {
                "cacheId": candidate.cache_id,
                "name": candidate.name,
                "rank": candidate.rank,
                "chosen": candidate.chosen,
                "fullMatches": candidate.full,
                "otherVersions": candidate.near,
                "coveredBytes": candidate.covered,
                "reasons": list(candidate.reasons),
            }
            for candidate in decision.candidates
        ],
        "events": [
            {"type": event.type, "reason": event.reason, "message": event.message}
            for event in decision.events
        ],
        "autoCreate": None
        if auto is None
        else {
            "cacheId": auto.cache_id,
            "name": auto.request.name,
            "images": [str(image) for image in auto.request.images],
        },
    }


def _image_json(image: decisions.ImageDecision, confirmed: Mapping[str, str]) -> dict[str, object]:
    covered = image.coverage
    moved = image.moved
    return {
        "image": image.image,
        "reference": None if image.reference is None else str(image.reference),
        "outcome": image.outcome.value,
        "reason": image.reason,
        "cacheId": image.cache_id or None,
        "registeredAhead": image.registrable is not None and not image.is_private,
        "laidOutAhead": image.registrable is not None and image.is_private,
        "layers": None if covered is None else covered.layers,
        "layersInStore": None if covered is None else covered.held_layers,
        "bytes": None if covered is None else covered.size,
        "bytesInStore": None if covered is None else covered.held_size,
        "tagConfirmed": _confirmed(image, confirmed) or None,
        "tagMoved": None
        if moved is None
        else {
            "digest": moved.target,
            "noticed": moved.noticed,
            "serveStale": moved.policy,
            "withheld": moved.withheld,
        },
    }


def _confirmed(image: decisions.ImageDecision, confirmed: Mapping[str, str]) -> str:
    """When the registry was last found to have what the cache has under a tag; "" if unknown."""
    if image.reference is None or image.reference.digest:
        return ""
    if image.moved is not None:
        return image.moved.confirmed
    return confirmed.get(image.cache_id, "")


def _lines(decision: decisions.Decision) -> Iterable[str]:
    request = decision.request
    yield decision.summary
    if request.asks:
        yield f"Asked by {request.key} ({request.dialect.value}, {request.mode.value})."
    yield from (f"Note: {remark}." for remark in request.remarks)
    if request.asks and not runtimes.uses_snapshotter(decision.pod):
        twin = runtimes.twin_of(decision.pod.runtime_class)
        yield (
            f"It needs the runtime class {twin}, which the admission policy of a cluster sets; "
            "without one, write it into the pod."
        )
    if request.asks and decision.pod.volume_images:
        yield (
            f"It has an image volume, so it is moved to nodes with the label"
            f" {keys.IMAGE_VOLUMES_LABEL}=true only, and not at all while there is none."
        )
    if decision.auto_create is not None:
        yield (
            f"A cache for these images would be created: {decision.auto_create.cache_id} "
            f"({decision.auto_create.request.name})."
        )
    elif request.mode is annotations.Mode.AUTOMATIC and not decision.reported:
        yield "No cache would be created for it."


def _image_table(decision: decisions.Decision, confirmed: Mapping[str, str]) -> rich.table.Table:
    table = rich.table.Table("IMAGE", "RESULT", "LAYERS", "SIZE IN STORE", "WHY", box=None)
    volumes = decision.pod.volume_images
    for image in decision.images:
        covered = image.coverage
        layers = "-" if covered is None else f"{covered.held_layers}/{covered.layers}"
        size = "-"
        if covered is not None:
            size = f"{units.size(covered.held_size)} of {units.size(covered.size)}"
        why = image.reason
        if image.registrable is not None:
            why += (
                "; its layers are laid out, the registry is asked for the manifest"
                if image.is_private
                else "; registered before the kubelet asks"
            )
        if moment := _confirmed(image, confirmed):
            why += f"; its tag was last confirmed at {moment}"
        table.add_row(
            rich.text.Text(
                f"{image.image} (volume)" if image.image in volumes else image.image,
                overflow="fold",
            ),
            rich.text.Text(_word(image.outcome), style=_STYLES[image.outcome]),
            layers,
            size,
            rich.text.Text(why),
        )
    return table


def _candidate_table(candidates: Iterable[decisions.Candidate]) -> rich.table.Table:
    table = rich.table.Table("RANK", "CACHE", "NAME", "COVERS", "WHY", box=None)
    for candidate in candidates:
        table.add_row(
            "-" if candidate.rank is None else str(candidate.rank),
            rich.text.Text(candidate.cache_id, style="green" if candidate.chosen else ""),
            rich.text.Text(candidate.name),
            units.size(candidate.covered),
            rich.text.Text("; ".join(candidate.reasons)),
        )
    return table


def _event_table(decision: decisions.Decision) -> rich.table.Table:
    table = rich.table.Table("EVENT", "REASON", "MESSAGE", box=None)
    for event in decision.events:
        table.add_row(event.type, event.reason, rich.text.Text(event.message))
    return table


def _word(outcome: decisions.Outcome) -> str:
    return outcome.value.replace("_", " ")
