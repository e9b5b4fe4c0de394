"""A whole profile, that of the base image's launches, and how a test changes one value of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measurements import golden, profile
from measurements.profile import profile_of

BASE = golden.parse((Path(__file__).parents[3] / "recipes/base/golden.json").read_bytes())
WHOLE = profile_of(
    BASE.image_layer,
    name="whole",
    predictions=BASE.predictions,
    sev_snp=BASE.sev_snp[:2],
    tdx=BASE.tdx,
)
VALUE = profile.to_value(WHOLE)


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def changed(change: Callable[[Any], None]) -> bytes:
    value = copy.deepcopy(VALUE)
    change(value)
    return text(value)


def register(value: Any, identifier: str) -> Any:
    return next(item for item in value["registers"] if item["id"] == identifier)
