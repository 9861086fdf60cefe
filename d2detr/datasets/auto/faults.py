"""Everything that is wrong with a dataset's files, told at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from d2detr.errors import UserError

MAX_EXAMPLES = 3

Result = TypeVar("Result")


class Faults:
    """Collects what keeps a dataset from being read, by kind."""

    def __init__(self) -> None:
        self._examples: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        """Note a fault.

        Args:
            kind: what is wrong, in the plural, such as "lines that are not numbers".
            example: where it is wrong.
        """
        self._examples[kind].append(example.rstrip("."))

    def reject(self, origin: str) -> None:
        """Raise a UserError that counts the faults of each kind and shows the first, if any."""
        told = []
        for kind, examples in self._examples.items():
            shown = examples[:MAX_EXAMPLES]
            if len(examples) > MAX_EXAMPLES:
                shown.append(f"and {len(examples) - MAX_EXAMPLES} more")
            told.append(f"{len(examples)} {kind}: {', '.join(shown)}")
        if told:
            raise UserError(f"{origin} cannot be read. It has {'; '.join(told)}.")


def run_all(tasks: Iterable[Callable[[], Result]]) -> list[Result]:
    """Run tasks to the last one, whichever fail.

    Raises:
        UserError: some raised it; has the messages of all.
    """
    results, messages = [], []
    for task in tasks:
        try:
            results.append(task())
        except UserError as error:
            messages.append(str(error))
    if messages:
        raise UserError("\n".join(messages))
    return results
