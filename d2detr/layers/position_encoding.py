import math

import torch
from torch import Tensor, nn

from d2detr.errors import UserError


class SinePositionEncoding(nn.Module):
    """Sine encoding of a cell's position among the unpadded cells (paper, appendix A.4).

    Args:
        embed_dim: features per cell; y fills the first half and x the second.
        temperature: ratio of the longest to the shortest wavelength.
        scale: the angle, in radians, of the last unpadded cell.
        offset: where cells lie, in cells after their end: -0.5 is their centre.
    """

    def __init__(
        self,
        embed_dim: int,
        temperature: float = 10000.0,
        scale: float = 2 * math.pi,
        offset: float = 0.0,
    ):
        super().__init__()
        if embed_dim % 4:
            raise UserError(
                f"embed_dim is {embed_dim}, but the sine position encoding needs a multiple of 4 "
                "(sine and cosine for each of x and y)."
            )
        self.scale = scale
        self.offset = offset
        num_features = embed_dim // 2
        exponent = 2 * (torch.arange(num_features) // 2) / num_features
        self.register_buffer("wavelength", temperature**exponent, persistent=False)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Encode the cells of a feature map.

        Args:
            padding_mask: (B, H, W), True at padding.

        Returns:
            (B, H, W, D) float32, or float64 of a model in double precision.
        """
        valid = ~padding_mask
        return torch.cat((self._encode(valid, dim=1), self._encode(valid, dim=2)), dim=-1)

    def _encode(self, valid: Tensor, dim: int) -> Tensor:
        dtype = torch.promote_types(self.wavelength.dtype, torch.float32)
        position = valid.cumsum(dim, dtype=dtype)
        last = position.narrow(dim, position.shape[dim] - 1, 1)
        if self.offset:
            position = position + self.offset
        angle = (position / (last + 1e-6) * self.scale)[..., None] / self.wavelength
        return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)


class LearnedPositionEncoding(nn.Module):
    """Learned row and column embeddings; x fills the first half of the features and y the second.

    Args:
        embed_dim: features per cell.
        max_cells: the most rows, and the most columns, that a feature map may have.
    """

    def __init__(self, embed_dim: int, max_cells: int = 50):
        super().__init__()
        self.row_embed = nn.Embedding(max_cells, embed_dim // 2)
        self.col_embed = nn.Embedding(max_cells, embed_dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Encode the cells of a feature map.

        Args:
            padding_mask: (B, H, W); only its shape counts.

        Returns:
            (B, H, W, D).

        Raises:
            UserError: the feature map has more rows or columns than there are embeddings.
        """
        batch, height, width = padding_mask.shape
        max_cells = self.row_embed.num_embeddings
        if max(height, width) > max_cells:
            raise UserError(
                f"A feature map of {height} x {width} cells is too large for the learned position "
                f"encoding of {max_cells} x {max_cells}. Use smaller images, or the sine encoding."
            )
        x = self.col_embed.weight[:width].expand(batch, height, -1, -1)
        y = self.row_embed.weight[:height, None].expand(batch, -1, width, -1)
        return torch.cat((x, y), dim=-1)


def build_position_encoding(
    name: str, embed_dim: int, temperature: float = 10000.0, offset: float = 0.0
) -> nn.Module:
    """Build a position encoding by its name.

    Args:
        name: "sine" or "learned".
        embed_dim: features per cell.
        temperature: of the sine encoding.
        offset: of the sine encoding.
    """
    if name == "sine":
        return SinePositionEncoding(embed_dim, temperature, offset=offset)
    if name == "learned":
        return LearnedPositionEncoding(embed_dim)
    raise UserError(f"position_embedding is {name!r}; choose from ['learned', 'sine'].")
