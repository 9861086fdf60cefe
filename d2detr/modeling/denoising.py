"""Denoising of true boxes as a second task of training (DN-DETR, Li et al., CVPR 2022)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import inverse_sigmoid
from d2detr.modeling.criterion import Divisor, Group
from d2detr.modeling.matcher import Matching
from d2detr.modeling.queries import Queries
from d2detr.modeling.targets import Targets


@dataclass
class Noised:
    """Which queries are noised objects, N of them; the others among the last are padding.

    Attributes:
        start: index of the first query that is none of the decoder's own.
        image: (N,) index of the image in the batch.
        query: (N,) index of the query in its image.
        target: (N,) index of the object.
        groups: how often each object is there.
    """

    start: int
    image: Tensor
    query: Tensor
    target: Tensor
    groups: int

    def as_group(self, logits: Tensor, boxes: Tensor, targets: Targets, divisor: Divisor) -> Group:
        """Return the predictions for noised objects, each to be compared with its own object.

        Args:
            logits: (L, B, Q, C) of all queries.
            boxes: (L, B, Q, 4) of all queries.
            targets: of the images.
            divisor: of the batch.
        """
        first = torch.zeros_like(self.image)
        # One image, so to speak, with all of the objects.
        objects = Targets(
            targets.labels[self.target], targets.boxes[self.target], [len(first)], first
        )
        order = torch.arange(len(first), device=first.device).expand(2 * len(logits), -1)
        count = divisor.num_denoised * self.groups
        return Group(
            logits[:, self.image, self.query][:, None],
            boxes[:, self.image, self.query][:, None],
            objects,
            Matching(torch.cat((first[None], order))),
            Divisor(count, count, count),
            suffix="_dn",
        )


class Denoising(nn.Module):
    """Adds queries to training that are true boxes with noise, in groups.

    Queries hold the embedding of a label, and a last feature that is 1 for noised objects. The
    decoder's own queries hold that of no label, and do not see the noised ones; the groups do not
    see each other. As in the original, objects see the padding of their group, so that they depend
    a little on how many objects the other images of a batch have.

    Args:
        num_classes: K.
        embed_dim: width D of the queries.
        reference_eps: of the inverse sigmoid of the decoder's references.
        groups: how often each object is noised, at least 1.
        label_noise: probability of a random label, in [0, 1].
        box_noise: the largest shift of a side or centre, relative to half of the box's size, and
            the largest relative change of the size.

    Raises:
        UserError: an argument makes no sense.
    """

    copies = 1  # of each object in a group

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int,
        reference_eps: float,
        groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
    ):
        super().__init__()
        if groups < 1:
            raise UserError(f"groups of denoising is {groups}, but must be at least 1.")
        if not 0 <= label_noise <= 1:
            raise UserError(f"label_noise is {label_noise}; it must be in [0, 1].")
        if box_noise < 0:
            raise UserError(f"box_noise is {box_noise}; it must be at least 0.")
        self.num_classes = num_classes
        self.reference_eps = reference_eps
        self.groups = groups
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.label_embed = nn.Embedding(num_classes + 1, self.label_dim(embed_dim))

    def label_dim(self, embed_dim: int) -> int:
        """Return the width of a label's embedding."""
        return embed_dim - 1

    def forward(
        self, queries: Queries, targets: Targets | None = None
    ) -> tuple[Queries, Noised | None]:
        """Give queries their contents and, in training, add noised objects at their end.

        Args:
            queries: the decoder's own, which are boxes.
            targets: objects to noise; None adds none.

        Returns:
            The queries, and which of them are noised objects.
        """
        queries = queries._replace(content=self.own_content(queries.content))
        if targets is None:
            return queries, None
        batch, start, _ = queries.content.shape
        longest = max(targets.counts)
        groups = self.count_groups(longest)
        rows = groups * self.copies
        position = _position_in_image(targets.counts).to(targets.image.device, non_blocking=True)
        offset = longest * torch.arange(rows, device=position.device)
        slot = (offset[:, None] + position).flatten()
        image = targets.image.repeat(rows)
        target = torch.arange(len(targets.labels), device=slot.device).repeat(rows)
        # A group holds every object once, and then perhaps once more to be told from it.
        copy = torch.arange(rows, device=slot.device) % self.copies
        negative = (copy > 0).repeat_interleave(len(position))
        labels, boxes = self.draw(targets.labels[target], targets.boxes[target], negative)
        content = self.content_of(labels)
        boxes = inverse_sigmoid(boxes, self.reference_eps).sigmoid()
        size = batch, rows * longest
        added = content.new_zeros(*size, content.shape[-1]).index_put((image, slot), content)
        added_boxes = boxes.new_full((*size, 4), 0.5).index_put((image, slot), boxes)
        return Queries(
            content=torch.cat((queries.content, added), 1),
            reference=torch.cat((queries.reference, added_boxes), 1),
            mask=self._mask(queries, groups, longest * self.copies),
        ), self.describe(Noised(start, image, start + slot, target, groups), negative)

    def own_content(self, content: Tensor) -> Tensor:
        """Return what the decoder's own queries (B, Q, D) start from beside noised objects."""
        return content + F.pad(self.label_embed.weight[-1], (0, 1))

    def content_of(self, labels: Tensor) -> Tensor:
        """Return what noised objects of labels (N,) start from: (N, D)."""
        return F.pad(self.label_embed(labels), (0, 1), value=1.0)

    def count_groups(self, longest: int) -> int:
        """Return the number of groups where an image has ``longest`` objects at most."""
        return self.groups

    def draw(self, labels: Tensor, boxes: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Add noise.

        Args:
            labels: (N,).
            boxes: (N, 4) centre, width, height.
            negative: (N,) True where the query shall find nothing, although it is near an object.
        """
        size = boxes[:, 2:]
        reach = torch.cat((size / 2, size), -1) * self.box_noise
        noise = 2 * torch.rand_like(boxes) - 1
        return self.draw_labels(labels), (boxes + noise * reach).clamp(0, 1)

    def draw_labels(self, labels: Tensor) -> Tensor:
        """Replace some of the labels (N,) by random ones."""
        changed = torch.rand_like(labels, dtype=torch.float32) < self.label_noise
        return torch.where(changed, torch.randint_like(labels, self.num_classes), labels)

    def describe(self, noised: Noised, negative: Tensor) -> Noised:
        """Return what is known about the noised objects (N,) of a batch."""
        return noised

    def _mask(self, queries: Queries, groups: int, length: int) -> Tensor:
        """(Q, Q) True where a query may attend to another; the decoder's own are group 0."""
        device, own = queries.content.device, queries.content.shape[1]
        group = torch.arange(1, groups + 1, device=device).repeat_interleave(length)
        group = F.pad(group, (own, 0))
        sees = (group[:, None] == group) | (group == 0)
        if queries.mask is not None:
            sees[:own, :own] &= queries.mask
        return sees


def _position_in_image(counts: list[int]) -> Tensor:
    """(T,) the number of each object in its image, from 0."""
    return torch.cat([torch.arange(count) for count in counts])
