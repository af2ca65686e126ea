"""Forms that are posted to the HTTP servers."""

import urllib.parse
from collections.abc import Mapping

from aiohttp import web

_FIELDS = 64


async def fields_of(request: web.Request) -> Mapping[str, str]:
    """The fields of a form; {}, which has neither signature nor token, for none or too large."""
    try:
        data = await request.read()
        pairs = urllib.parse.parse_qsl(
            data.decode(), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict"
        )
    except (web.HTTPRequestEntityTooLarge, ValueError):
        return {}
    # A field that is there twice would be signed in one way and read in another.
    return dict(pairs) if len(pairs) == len(dict(pairs)) else {}
