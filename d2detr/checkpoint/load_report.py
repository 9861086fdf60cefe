"""What became of a weight file's tensors."""

from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 6


@dataclass
class LoadReport:
    """The summary of one loading of weights.

    Attributes:
        format: the format of the weights, for people.
        total: tensors of the model.
        loaded: the model's tensors that were set, wholly or in part.
        kept: the model's tensors that keep their initial value, by the reason.
        partial: tensors of which some rows were set, with what was set.
        carried_classes: names of the classes whose rows were carried over, or None where the
            class head was loaded as it is or not at all.
        new_classes: names of the other classes.
        unused: keys of the weights that the model has no place for.
    """

    format: str
    total: int
    loaded: list[str] = field(default_factory=list)
    kept: dict[str, list[str]] = field(default_factory=dict)
    partial: dict[str, str] = field(default_factory=dict)
    carried_classes: list[str] | None = None
    new_classes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def keep(self, reason: str, key: str) -> None:
        self.kept.setdefault(reason, []).append(key)

    def has_loaded(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.loaded)

    @property
    def random(self) -> list[str]:
        """The model's tensors that keep their initial value, whatever the reason."""
        return [key for keys in self.kept.values() for key in keys]

    def add(self, part: "LoadReport", prefix: str) -> None:
        """Add what became of a part of the model, which stands at ``prefix`` in it."""
        self.format = part.format
        self.loaded += [prefix + key for key in part.loaded]
        for reason, keys in part.kept.items():
            self.kept.setdefault(reason, []).extend(prefix + key for key in keys)
        self.partial |= {prefix + key: what for key, what in part.partial.items()}
        if part.carried_classes is not None:
            self.carried_classes = [*(self.carried_classes or []), *part.carried_classes]
        self.new_classes += part.new_classes
        self.unused += [prefix + key for key in part.unused]

    def __str__(self) -> str:
        lines = [f"Weights are {self.format}: {len(self.loaded)} of {self.total} tensors loaded."]
        for key, what in self.partial.items():
            lines.append(f"  in part: {key}, {what}")
        if self.carried_classes is not None:
            lines.append(f"  classes carried over: {_names(self.carried_classes, 100)}")
            lines.append(f"  classes that start anew: {_names(self.new_classes, 100)}")
        for reason, keys in self.kept.items():
            lines.append(f"  initial value, {reason}: {_names(_modules(keys))}")
        if self.unused:
            lines.append(f"  not used: {_names(_modules(self.unused))}")
        return "\n".join(lines)


def _modules(keys: Iterable[str]) -> list[str]:
    """The modules that hold ``keys``, with how many tensors of each, at most three levels deep."""
    counts: dict[str, int] = {}
    for key in keys:
        module = ".".join(key.split(".")[:3])
        counts[module] = counts.get(module, 0) + 1
    return [f"{module} ({n})" if n > 1 else module for module, n in counts.items()]


def _names(names: list[str], shown: int = _SHOWN) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) or "none") + more
