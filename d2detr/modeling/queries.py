"""What goes into a decoder and what comes out of it."""

from typing import NamedTuple

from torch import Tensor


class Memory(NamedTuple):
    """The cells of one feature map or of several, in one run, before or after the encoder.

    Attributes:
        tokens: (B, S, D).
        pos: (B, S, D) position encoding.
        mask: (B, S) True at unpadded cells, or None where nothing is padded.
        shapes: rows and columns of each feature map; their products add up to S.
    """

    tokens: Tensor
    pos: Tensor
    mask: Tensor | None
    shapes: tuple[tuple[int, int], ...]


class Queries(NamedTuple):
    """What a decoder starts from.

    Attributes:
        content: (B, Q, D), or (1, 1, D) if all queries of all images hold the same.
        position: (B, Q, D), or None if positions follow from the references.
        reference: (B, Q, 2) points or (B, Q, 4) boxes (centre, width, height), in [0, 1]; None for
            queries without a place.
        mask: (Q, Q) True where a query may attend to another, or None for everywhere.
    """

    content: Tensor
    position: Tensor | None = None
    reference: Tensor | None = None
    mask: Tensor | None = None


class Proposed(NamedTuple):
    """What every cell of the memory predicts.

    Attributes:
        logits: (B, S, C).
        boxes: (B, S, 4) centre, width, height in [0, 1].
    """

    logits: Tensor
    boxes: Tensor


class Decoded(NamedTuple):
    """What a decoder gives.

    Attributes:
        hs: (L, B, Q, D) the object embeddings after every layer.
        reference: (L, B, Q, 2) or (L, B, Q, 4), what each layer's boxes start from; None if they
            start from nowhere.
        proposed: what the cells of the memory predict, which the queries were chosen from; None
            without proposals.
    """

    hs: Tensor
    reference: Tensor | None = None
    proposed: Proposed | None = None

    def last_layer(self) -> "Decoded":
        """The last layer alone, with L = 1."""
        return Decoded(self.hs[-1:], None if self.reference is None else self.reference[-1:])
