"""What the gate writes down: each step before it begins, so that a step that hangs is named too.

Two programs write such files, one step after the other, and the evidence service tells both (`record_of`).
"""

import json
import os
from collections.abc import Callable, Sequence

Step = dict[str, str | bool]

CHECKS = "/run/goldsmith-gpu-gate/steps.json"
OPENING = "/run/goldsmith-gpu-ready/steps.json"
MAX_FILE = 1 << 18
BEGUN = "begun, and it has not ended"
_MAX_TEXT = 1000  # characters; the evidence document takes 1024


class RefusalError(Exception):
    """A step found something that must not be; the message says what."""


class Steps:
    """The steps of one program, kept in a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._steps: list[Step] = []

    def run(self, name: str, action: Callable[[], str]) -> bool:
        """Run a step: write down that it begins, call ``action``, and write down how it ended.

        ``action`` returns what it found, or raises: then the step failed, whatever was raised, and no other follows.
        Returns whether the step held.
        """
        self._write([*self._steps, _step(name, False, BEGUN)])
        try:
            self._steps.append(_step(name, True, action()))
        except Exception as error:  # whatever it is, nothing is proven
            kind = "" if isinstance(error, RefusalError) else f"{type(error).__name__}: "
            self._steps.append(_step(name, False, f"{kind}{error}"))
        self._write(self._steps)
        return bool(self._steps[-1]["ok"])

    def _write(self, steps: list[Step]) -> None:
        temporary = f"{self._path}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(steps, file)
        os.replace(temporary, self._path)


def read(path: str) -> list[Step]:
    """Return the steps of a file, or none where it cannot be read; raise ValueError for what is no such file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return []
    if len(data) > MAX_FILE:
        raise ValueError(f"{path} is larger than {MAX_FILE} bytes")
    steps = json.loads(data)
    kinds = {"name": str, "ok": bool, "detail": str}
    if not isinstance(steps, list) or not all(
        isinstance(step, dict)
        and step.keys() == kinds.keys()
        and all(isinstance(step[key], kind) for key, kind in kinds.items())
        for step in steps
    ):
        raise ValueError(f"{path} holds something other than steps")
    return steps


def complete(steps: list[Step], names: Sequence[str]) -> bool:
    """Whether these are the steps of these names, each once, in this order, and all held."""
    return [step["name"] for step in steps] == list(names) and all(step["ok"] for step in steps)


def reason(steps: list[Step], names: Sequence[str]) -> str:
    """Return why these are not complete, in words."""
    for step in steps:
        if not step["ok"]:
            return f"{step['name']}: {step['detail']}"[:_MAX_TEXT]
    done = [step["name"] for step in steps]
    if done != list(names)[: len(done)]:
        return f"the steps are {', '.join(done)}; expected {', '.join(names)}"[:_MAX_TEXT]
    return f"{names[len(done)]}: it has not begun"


def _step(name: str, ok: bool, detail: str) -> Step:
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in detail.replace("\n", "; "))
    return {"name": name, "ok": ok, "detail": plain[:_MAX_TEXT]}
