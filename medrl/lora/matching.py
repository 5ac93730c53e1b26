"""Patterns against module names: four modes, always on whole path segments."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

from medrl.errors import AdapterError


def matcher(pattern: str, mode: str) -> Callable[[str], bool]:
    """Whether a full dotted module name is meant by `pattern`.

    exact: the name itself, `*` standing for one layer number; subtree: such a name or anything below it; regex: a full
    match; suffix: the last segment (or last segments) of the name. AdapterError for a pattern that cannot be read.
    """
    try:
        compiled = re.compile(_as_regex(pattern, mode))
    except re.error as error:
        raise AdapterError(f"lora pattern {pattern!r} is not a regular expression", got=str(error)) from None
    return lambda name: compiled.fullmatch(name) is not None


def _as_regex(pattern: str, mode: str) -> str:
    if mode == "regex":
        return pattern
    segments = pattern.split(".")
    if not all(segments) or any("*" in s and s != "*" for s in segments):
        raise AdapterError(
            f"lora pattern {pattern!r} cannot be read",
            limit="names joined by dots, * alone for a layer number",
            remedy="use lora.match: regex for parts of names",
        )
    path = r"\.".join(r"\d+" if s == "*" else re.escape(s) for s in segments)
    return {"exact": path, "subtree": rf"{path}(\..+)?", "suffix": rf"(.+\.)?{path}"}[mode]


def nearest(pattern: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The names (layer numbers as *) most like `pattern`, for an error message."""
    general = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names))
    wanted = re.sub(r"\.\d+(?=\.|$)", ".*", pattern.replace("\\", ""))
    close = difflib.get_close_matches(wanted, general, n=count, cutoff=0.4)
    last = wanted.rpartition(".")[2]
    return (
        close
        or sorted(general, key=lambda name: -difflib.SequenceMatcher(None, last, name.rpartition(".")[2]).ratio())[
            :count
        ]
    )


def parse_layers(text: str, depth: int) -> set[int]:
    """ "0,4,8-11" → {0, 4, 8, 9, 10, 11}. AdapterError for anything else, and for layers the model does not have."""
    chosen: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise AdapterError(
                "lora.layers cannot be read", limit='numbers and ranges, for example "0,4,8-11"', got=repr(text)
            )
        chosen.update(range(first, last + 1))
    if max(chosen) >= depth:
        raise AdapterError(
            "lora.layers names layers the model does not have", limit=f"0 to {depth - 1}", got=repr(text)
        )
    return chosen


def exact_regex(names: Iterable[str]) -> str:
    """A regular expression whose full matches are exactly `names`; those that differ in one number share a branch."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found = re.fullmatch(r"(.*?\.)(\d+)(\..*)", name)
        head, number, tail = found.groups() if found else (name, "", "")
        groups.setdefault((head, tail), []).append(number)
    return "|".join(
        re.escape(head) + (numbers[0] if len(numbers) == 1 else f"(?:{'|'.join(numbers)})") + re.escape(tail)
        for (head, tail), numbers in groups.items()
    )
