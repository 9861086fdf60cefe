from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

from d2detr.errors import UserError


class NamedRegistry(Registry):
    """Detectron2's registry, with names that are shorter than the classes'.

    Args:
        key: of ``MODEL.DETR``, which holds a name.
        what: one of what is registered, at the beginning of a sentence.
    """

    def __init__(self, key: str, what: str):
        super().__init__(key)
        self._what = what

    def build(self, cfg: CfgNode) -> Any:
        """Build from a config what its key names.

        Raises:
            UserError: there is none of that name, or its settings make no sense.
        """
        name = cfg.MODEL.DETR[self._name]
        if name not in self:
            names = ", ".join(sorted(name for name, _ in self))
            raise UserError(
                f"MODEL.DETR.{self._name} is {name!r}; there are {names}. {self._what} of another "
                "file is known once that file is imported."
            )
        return self.get(name)(cfg)

    def register(self, name: str | None = None) -> Callable[[type], type]:
        """Return a decorator that makes a class known by ``name``, or by its own."""

        def remember(kind: type) -> type:
            self._do_register(name or kind.__name__, kind)
            return kind

        return remember
