from collections.abc import Callable

from detectron2.utils.registry import Registry


class NamedRegistry(Registry):
    """Detectron2's registry, with names that are shorter than the classes'."""

    def register(self, name: str | None = None) -> Callable[[type], type]:
        """Return a decorator that makes a class known by ``name``, or by its own."""

        def remember(kind: type) -> type:
            self._do_register(name or kind.__name__, kind)
            return kind

        return remember
