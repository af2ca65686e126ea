"""Kubernetes' schemas of its own objects, as kubernetes_validate has them.

It reads the megabyte of a release's definitions again for each object that it validates. Here
each file is read once.
"""

import functools
from collections.abc import Mapping
from typing import Any
from unittest import mock

import kubernetes_validate
from kubernetes_validate import utils

ValidationError = kubernetes_validate.ValidationError

_contents = functools.cache(utils.schema_contents)
_versions = functools.cache(utils.all_versions)


def validate(document: Mapping[str, Any], release: str) -> None:
    """Hold a document against the schema of a release; raise ValidationError.

    A field that the schema does not have is an error, too.
    """
    with (
        mock.patch.object(utils, "schema_contents", _contents),
        mock.patch.object(utils, "all_versions", _versions),
    ):
        kubernetes_validate.validate(document, release, strict=True)
