"""`uimgacc match`: which cache serves the pods of a manifest, and why."""

import dataclasses
import pathlib
from collections.abc import Mapping

from agent import errors
from agent.cli import output
from agent.cli.caches import create_command, store_caches
from agent.cli.pods import explanation
from agent.matching import annotations, decisions, pod_moves, rules, subjects
from agent.model import caches, images, keys, pods, workloads
from agent.roles import builder


def match(store: pathlib.Path, file: str, *, platform: str, as_json: bool) -> None:
    """Decide as the node agent would for each pod of a file, and explain it."""
    wanted = images.parse_platform(platform) if platform else builder.own_platform()
    read = _pods(file)
    made = [_decide(store, pod, wanted) for pod in read]
    confirmed = store_caches.reader_of(store).confirmed()
    if as_json:
        output.show_json([explanation.to_json(decision, confirmed) for decision in made])
        return
    console = output.console()
    for number, decision in enumerate(made):
        if number:
            console.print()
        explanation.explain(console, decision, confirmed)


def _pods(file: str) -> list[pods.Pod]:
    """The pods of a file. Namespaces in it may have the label that asks for all of their pods."""
    read: list[pods.Pod] = []
    faults = []
    labels: dict[str, str] = {}
    for document in create_command.read_documents(file):
        if not isinstance(document, Mapping):
            raise output.UsageError(f"{file}: not a Kubernetes manifest")
        namespace = workloads.label_of_namespace(document, keys.CACHE)
        if namespace is not None:
            labels[namespace[0]] = namespace[1]
            continue
        try:
            read += workloads.pods_of(document)
        except errors.AgentError as error:
            faults.append(str(error))
    if not read:
        raise output.UsageError(f"{file}: {faults[0] if faults else 'no pod in it'}")
    for fault in faults:
        output.say(f"{file}: {fault}")
    return [_spoken_for(pod, labels.get(pod.namespace, "")) for pod in read]


def _spoken_for(pod: pods.Pod, label: str) -> pods.Pod:
    if pod.namespace in pod_moves.LEFT_OUT:
        return pod
    return dataclasses.replace(pod, annotations=annotations.in_namespace(pod.annotations, label))


def _decide(store: pathlib.Path, pod: pods.Pod, platform: images.Platform) -> decisions.Decision:
    reader = store_caches.reader_of(store)
    views = [caches.cache_of(record) for record in reader.caches()]
    wanted = subjects.references_to_look_up(pod, views)
    known = {str(reference): reader.image(reference) for reference in wanted}
    request = annotations.request_of(pod)
    return rules.decide(pod, request, views, known, platform=platform)
