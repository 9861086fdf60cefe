"""Reading pickles without running the code that they may hold."""

import collections
import pickle
from typing import IO, Any

import numpy as np

_ARRAY: Any = np.empty(0)
_NUMBER: Any = np.float64(0)
# NumPy's functions that rebuild arrays and numbers, by where NumPy 1 and NumPy 2 have them.
_REBUILDERS = {
    (f"{package}.{module}", rebuild.__name__): rebuild
    for package in ("numpy.core", "numpy._core")
    for module, rebuild in (
        ("multiarray", _ARRAY.__reduce__()[0]),
        ("multiarray", _NUMBER.__reduce__()[0]),
        ("numeric", _ARRAY.__reduce_ex__(5)[0]),
    )
}
_ALLOWED = {
    **_REBUILDERS,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class RefusedPickle(pickle.UnpicklingError):
    """A pickle needs something that is neither a number, a text, an array nor a container.

    Attributes:
        needs: the dotted name of what it needs.
    """

    def __init__(self, needs: str):
        super().__init__(f"refused to import {needs}")
        self.needs = needs


class ArrayUnpickler(pickle.Unpickler):
    """Reads numbers, texts, NumPy arrays and containers of them, and refuses all else.

    Refusing happens before anything that a pickle names is imported or called.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 pickles bytes for Python 2
            return _encode_latin1
        if (module, name) not in _ALLOWED:
            raise RefusedPickle(f"{module}.{name}")
        return _ALLOWED[module, name]


def load_arrays(file: IO[bytes]) -> Any:
    """Read a pickle of numbers, texts, NumPy arrays and containers of them.

    Raises:
        RefusedPickle: there is anything else in it.
    """
    # Detectron2's model zoo was pickled by Python 2.
    return ArrayUnpickler(file, encoding="latin1").load()


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # other codecs can run code or expand without bound
        raise RefusedPickle(f"_codecs.encode with {encoding}")
    return text.encode("latin1")
