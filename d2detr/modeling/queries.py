"""What goes into a decoder and what comes out of it."""

from typing import NamedTuple

import torch
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

    @property
    def cells_per_level(self) -> list[int]:
        """How many cells each feature map has."""
        return [height * width for height, width in self.shapes]

    def level(self, index: int) -> "Memory":
        """Return the cells of one feature map alone."""
        if len(self.shapes) == 1:
            return self
        tokens, pos = (x.split(self.cells_per_level, 1)[index] for x in (self.tokens, self.pos))
        mask = None if self.mask is None else self.mask.split(self.cells_per_level, 1)[index]
        return Memory(tokens, pos, mask, (self.shapes[index],))

    def valid_ratios(self) -> Tensor:
        """Return which share of each feature map's width and height is not padding.

        Returns:
            (B, levels, 2) in (0, 1], at least float32.
        """
        dtype = torch.promote_types(self.tokens.dtype, torch.float32)
        if self.mask is None:
            return self.tokens.new_ones(self.tokens.shape[0], len(self.shapes), 2, dtype=dtype)
        masks = self.mask.to(dtype).split(self.cells_per_level, 1)
        grids = [mask.unflatten(1, shape) for mask, shape in zip(masks, self.shapes, strict=True)]
        return torch.stack(
            [torch.stack((grid[:, 0].mean(1), grid[:, :, 0].mean(1)), -1) for grid in grids], 1
        )

    def centres(self, valid_ratios: Tensor) -> Tensor:
        """Return the centres (B, S, 2) of all cells, relative to the unpadded part of the images.

        Args:
            valid_ratios: of :meth:`valid_ratios`.
        """
        centres = []
        for (height, width), ratios in zip(self.shapes, valid_ratios.unbind(1), strict=True):
            y, x = (
                torch.arange(n, device=ratios.device, dtype=ratios.dtype) + 0.5
                for n in (height, width)
            )
            grid = torch.stack(
                ((x / width).expand(height, -1), (y / height)[:, None].expand(-1, width)), -1
            )
            centres.append(grid.flatten(0, 1) / ratios[:, None])
        return torch.cat(centres, 1)


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
    """What the cells of the memory propose.

    Attributes:
        embeddings: (B, S, D) of all cells, which boxes are predicted from.
        logits: (B, S, C) of all cells.
        squares: (B, S, 4) that the cells' boxes start from.
        valid: (B, S) whether a cell proposes anything.
        index: (B, Q) the chosen cells, the best one first.
        boxes: (B, Q, 4) of the chosen cells; centre, width, height in [0, 1].
    """

    embeddings: Tensor
    logits: Tensor
    squares: Tensor
    valid: Tensor
    index: Tensor
    boxes: Tensor


class Decoded(NamedTuple):
    """What a decoder gives.

    Attributes:
        hs: (L, B, Q, D) the object embeddings after every layer.
        reference: (L, B, Q, 2) or (L, B, Q, 4), what each layer's boxes start from; None if they
            start from nowhere.
        proposed: what the cells of the memory propose, which the queries were chosen from; None
            without proposals.
    """

    hs: Tensor
    reference: Tensor | None = None
    proposed: Proposed | None = None

    def last_layer(self) -> "Decoded":
        """The last layer alone, with L = 1."""
        return Decoded(self.hs[-1:], None if self.reference is None else self.reference[-1:])
