"""JSON that a person typed or a pipe brought, read as strictly as the board reads it."""

from __future__ import annotations

import os
from typing import Any

from shoal.client.selections import BOUNDLESS
from shoal.errors import InvalidRequest
from shoal.model.payload import check_json


def read_json(text: str | bytes, what: str) -> Any:
    """The value of `text`. Raises InvalidRequest, which says that `what` cannot be read.

    A plain decoder would keep one of two equal keys; what is stored must be what was written.
    """
    raw = os.fsencode(text) if isinstance(text, str) else text
    try:
        return check_json(raw, BOUNDLESS)
    except InvalidRequest as error:
        hint = "" if raw.lstrip()[:1] in {b"{", b"["} else "; text needs quotes of its own: '\"text\"'"
        raise InvalidRequest(f"{what} is {error.detail}{hint}", pointer=what) from error
