"""Two-way tables of parameter names."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

StateDict = Mapping[str, Tensor]


class Renaming:
    """Renames the beginnings of keys, in either direction, by one table.

    The longest fitting row wins, whatever the order of the table; keys that no row fits stay as
    they are.

    Args:
        rows: pairs of their and our beginning of a key, which ends where the key has a dot. ``*``
            stands for a number and may be used in both.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]):
        rows = list(rows)
        self._to_ours = _compile(rows)
        self._to_theirs = _compile([(ours, theirs) for theirs, ours in rows])

    def to_ours(self, state_dict: StateDict) -> dict[str, Tensor]:
        return rename(state_dict, lambda key: _apply(self._to_ours, key))

    def to_theirs(self, state_dict: StateDict) -> dict[str, Tensor]:
        return rename(state_dict, lambda key: _apply(self._to_theirs, key))


def rename(state_dict: StateDict, new_name: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the same tensors under ``new_name(key)``."""
    return OrderedDict((new_name(key), value) for key, value in state_dict.items())


def _compile(rows: list[tuple[str, str]]) -> list[tuple[re.Pattern, str]]:
    compiled = []
    for old, new in sorted(rows, key=lambda row: -len(row[0])):
        pattern = re.escape(old).replace(r"\*", r"(\d+)") + r"(?=\.|$)"
        compiled.append((re.compile(pattern), _numbered_groups(new)))
    return compiled


def _numbered_groups(template: str) -> str:
    first, *rest = template.split("*")
    return first + "".join(rf"\g<{i}>{text}" for i, text in enumerate(rest, 1))


def _apply(rows: list[tuple[re.Pattern, str]], key: str) -> str:
    for pattern, replacement in rows:
        match = pattern.match(key)
        if match:
            return match.expand(replacement) + key[match.end() :]
    return key
