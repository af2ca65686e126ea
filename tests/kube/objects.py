"""The objects of an API server that is a fake: versions, watches' history, selectors, patches.

kmock (0.8) brings HTTP, discovery and a picture of requests, but lists without
versions or selectors, replays everything to every watch, and knows one kind of
patch. What clients like ours live on is here, as the real server does it.
"""

import bisect
import copy
import dataclasses
import datetime
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jsonpatch

Object = dict[str, Any]
Kind = tuple[str, str]  # group and plural
Key = tuple[str, str]  # namespace and name

_MERGE_KEYS = {
    "conditions": "type",
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "ownerReferences": "uid",
    "addresses": "type",
    "webhooks": "name",
}
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_STATUS_AT_CREATION = frozenset({("", "nodes")})
_DEFINITIONS = ("apiextensions.k8s.io", "customresourcedefinitions")


class RefusedError(Exception):
    """What the server answers instead of doing it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of one object; `before` is None for a creation, `after` for the end."""

    version: int
    kind: Kind
    key: Key
    before: Object | None
    after: Object | None


def _check(meta: Object) -> None:
    if not meta.get("name"):
        raise RefusedError(422, "Invalid", "metadata.name: Required value")
    for value in (meta.get("labels") or {}).values():
        if not _LABEL.fullmatch(value):
            raise RefusedError(422, "Invalid", f'metadata.labels: Invalid value: "{value}"')


class Objects:
    """All objects, and their changes since `oldest`."""

    def __init__(self) -> None:
        self.version = 1000
        self.oldest = self.version
        self.changes: list[Change] = []
        self.on_change: set[Callable[[], None]] = set()
        self._objects: dict[Kind, dict[Key, Object]] = {}

    def forget(self) -> None:
        """Forget all changes, as a server does that was started again."""
        self.changes.clear()
        # A version that nobody has seen: nothing before it can be watched from.
        self.version += 1
        self.oldest = self.version

    def since(self, version: int) -> list[Change]:
        """The changes after a version. There are thousands, and each watch asks after each one."""
        at = bisect.bisect_right(self.changes, version, key=lambda change: change.version)
        return self.changes[at:]

    def all(self, kind: Kind) -> dict[Key, Object]:
        """The objects of a kind, in the order of their keys as etcd has them."""
        return dict(sorted(self._objects.get(kind, {}).items()))

    def get(self, kind: Kind, key: Key) -> Object:
        """One object."""
        try:
            return self._objects[kind][key]
        except KeyError:
            raise RefusedError(404, "NotFound", f'{kind[1]} "{key[1]}" not found') from None

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Take a new object in."""
        made = copy.deepcopy(body)
        meta = made.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{uuid.uuid4().hex[:5]}"
        _check(meta)
        if meta.get("namespace", namespace) != namespace:
            raise RefusedError(
                400, "BadRequest", "the namespace does not match that of the request"
            )
        if namespace:
            meta["namespace"] = namespace
            if ("", namespace) not in self._objects.get(("", "namespaces"), {}):
                raise RefusedError(404, "NotFound", f'namespaces "{namespace}" not found')
        key = (namespace, meta["name"])
        if key in self._objects.get(kind, {}):
            raise RefusedError(409, "AlreadyExists", f'{kind[1]} "{key[1]}" already exists')
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        if self._is_counted(kind):
            meta["generation"] = 1
        if kind not in _STATUS_AT_CREATION:
            made.pop("status", None)
        if kind == ("", "pods"):
            made["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        return self._put(kind, key, made)

    def replace(self, kind: Kind, key: Key, body: Object, *, status: bool = False) -> Object:
        """What PUT and all patches come to: the object is now this one."""
        before = self.get(kind, key)
        after = copy.deepcopy(body)
        meta = after.setdefault("metadata", {})
        wanted = meta.get("resourceVersion")
        if wanted and wanted != before["metadata"]["resourceVersion"]:
            raise RefusedError(
                409, "Conflict", f'{kind[1]} "{key[1]}": the object has been modified'
            )
        for name in ("uid", "creationTimestamp", "namespace", "name", "resourceVersion"):
            if name in before["metadata"]:
                meta[name] = before["metadata"][name]
        if "generation" in before["metadata"]:
            changed = not status and _without_state(after) != _without_state(before)
            meta["generation"] = before["metadata"]["generation"] + changed
        if status:
            after = {**before, "status": after.get("status", {})}
        else:
            after.pop("status", None)
            after |= {"status": before["status"]} if "status" in before else {}
        if after == before:
            return before
        if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
            return self._remove(kind, key, after)
        return self._put(kind, key, after)

    def patch(
        self, kind: Kind, key: Key, body: Any, content_type: str, *, status: bool = False
    ) -> Object:
        """Change an object; applying makes one that is not there (whoever owns its fields)."""
        applied = "apply" in content_type
        if applied and key not in self._objects.get(kind, {}):
            return self.create(kind, key[0], body)
        before = copy.deepcopy(self.get(kind, key))
        if "json-patch" in content_type:
            try:
                after = jsonpatch.apply_patch(before, body)
            except jsonpatch.JsonPatchException as error:
                raise RefusedError(422, "Invalid", str(error)) from error
        elif "merge-patch" in content_type or applied:
            strategic = "strategic" in content_type or applied
            after = _merged(before, body, strategic=strategic)
        else:
            raise RefusedError(415, "UnsupportedMediaType", content_type)
        return self.replace(kind, key, after, status=status)

    def delete(self, kind: Kind, key: Key, options: Object) -> Object:
        """Delete an object, or mark it while something holds it."""
        found = copy.deepcopy(self.get(kind, key))
        meta = found["metadata"]
        if options.get("preconditions", {}).get("uid", meta["uid"]) != meta["uid"]:
            raise RefusedError(409, "Conflict", "the UID in the precondition does not match")
        running = kind == ("", "pods") and found["spec"].get("nodeName")
        grace = options.get("gracePeriodSeconds", 30 if running else 0)
        if meta.get("finalizers") or (running and grace):
            if not meta.get("deletionTimestamp"):
                meta |= {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": grace}
                if "generation" in meta:
                    meta["generation"] += 1
                self._put(kind, key, found)
            return found
        return self._remove(kind, key, found)

    def _is_counted(self, kind: Kind) -> bool:
        """Whether objects of a kind have a generation: the number of their specs so far."""
        definitions = self._objects.get(_DEFINITIONS, {}).values()
        return kind[0] == "apps" or any(each["spec"]["group"] == kind[0] for each in definitions)

    def _put(self, kind: Kind, key: Key, after: Object) -> Object:
        before = self._objects.get(kind, {}).get(key)
        after["metadata"]["resourceVersion"] = self._changed(kind, key, before, after)
        self._objects.setdefault(kind, {})[key] = after
        return after

    def _remove(self, kind: Kind, key: Key, last: Object) -> Object:
        before = self._objects[kind].pop(key)
        last = copy.deepcopy(last)
        # A watch tells the object as it was last, with the version of its deletion.
        last["metadata"]["resourceVersion"] = self._changed(kind, key, {**before}, None)
        self.changes[-1] = dataclasses.replace(self.changes[-1], before=last)
        return last

    def _changed(self, kind: Kind, key: Key, before: Object | None, after: Object | None) -> str:
        self.version += 1
        self.changes.append(Change(self.version, kind, key, before, after))
        for tell in list(self.on_change):
            tell()
        return str(self.version)


def _without_state(found: Object) -> Object:
    """What its generation counts the changes of: the spec, or what else a kind has."""
    state = ("apiVersion", "kind", "metadata", "status")
    return {name: value for name, value in found.items() if name not in state}


def matches(found: Object, *, namespace: str, name: str, fields: str, labels: str) -> bool:
    """Whether an object is among those that a list or watch asks for."""
    meta = found["metadata"]
    if namespace and meta.get("namespace", "") != namespace:
        return False
    if name and meta["name"] != name:
        return False
    own = meta.get("labels") or {}
    return all(_field(found, path) == wanted for path, wanted in _terms(fields)) and all(
        _label(own, term) for term in labels.split(",") if term
    )


def _terms(selector: str) -> Iterator[tuple[str, str]]:
    for term in selector.split(","):
        if term:
            path, _, value = term.partition("=")
            yield path, value.removeprefix("=")


def _label(own: dict[str, str], term: str) -> bool:
    if term.startswith("!"):
        return term[1:] not in own
    if "!=" in term:
        key, _, value = term.partition("!=")
        return own.get(key) != value
    key, equals, value = term.partition("=")
    return key in own if not equals else own.get(key) == value.removeprefix("=")


def _field(found: Object, path: str) -> str:
    value: Any = found
    for step in path.split("."):
        value = value.get(step, {}) if isinstance(value, dict) else {}
    return "" if value in ({}, None) else str(value)


def _merged(old: Any, patch: Any, *, strategic: bool) -> Any:
    """RFC 7386; strategic: lists of things with a key are merged by it, as Kubernetes does."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif strategic and isinstance(value, list) and name in _MERGE_KEYS:
            result[name] = _merged_list(result.get(name) or [], value, _MERGE_KEYS[name])
        else:
            result[name] = _merged(result.get(name), value, strategic=strategic)
    return result


def _merged_list(old: list[Object], patch: list[Object], key: str) -> list[Object]:
    found = {item[key]: item for item in old}
    for item in patch:
        if item.get("$patch") == "delete":
            found.pop(item[key], None)
        else:
            found[item[key]] = _merged(found.get(item[key]), item, strategic=True)
    return list(found.values())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
