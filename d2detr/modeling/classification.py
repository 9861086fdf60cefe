"""What the logits of a class head mean: two ways, and all that follows from them.

Each knows its number of logits, where they start, what a match costs, the loss and which
detections are the best, so that nothing else has to know whether there is a no-object.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2detr.layers import at_least_float32, sum_of_focal


class Best(NamedTuple):
    """The best N detections of every image.

    Attributes:
        scores: (B, N).
        classes: (B, N).
        query: (B, N) that each is of; None if they are one of each query in order.
    """

    scores: Tensor
    classes: Tensor
    query: Tensor | None


class Classification(nn.Module, ABC):
    """Classification of queries among K classes.

    Attributes:
        name: in ``MODEL.DETR.CLASSIFICATION``.
        extra_rows: what the rows of a class head after those of the classes stand for.

    Args:
        num_classes: K, without no-object.
    """

    name: str
    extra_rows: tuple[str, ...] = ()

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    @property
    def num_logits(self) -> int:
        """C, of every query."""
        return self.num_classes + len(self.extra_rows)

    def init_bias(self, bias: nn.Parameter) -> None:
        """Set the bias (C,) of a new class head; without need it stays as torch made it."""
        return

    @abstractmethod
    def normalise(self, logits: Tensor) -> Tensor:
        """Return what costs and loss are computed of: (..., C) of logits (..., C)."""

    @abstractmethod
    def cost(self, normalised: Tensor) -> Tensor:
        """Return the cost of matching a query with a class, of the :meth:`normalise`-d logit."""

    @abstractmethod
    def loss(
        self, normalised: Tensor, layer: Tensor, image: Tensor, query: Tensor, labels: Tensor
    ) -> Tensor:
        """Sum the loss of every layer's queries.

        Args:
            normalised: (L, B, Q, C), see :meth:`normalise`.
            layer: (L, 1) layers of the matched pairs.
            image: (M,) their images.
            query: (L, M) their queries.
            labels: (L, M) the classes that these shall have; others shall have none.

        Returns:
            (L,).
        """

    @abstractmethod
    def total_weight(self, num_pairs: int, num_others: int) -> float | None:
        """Return what the loss is divided by, of the numbers of matched and other queries.

        None divides it by the number of boxes.
        """

    @abstractmethod
    def is_object(self, logits: Tensor, best: Tensor) -> Tensor:
        """Tell which queries find an object, of (..., Q, C) logits and the best's index."""

    @abstractmethod
    def object_score(self, logits: Tensor) -> Tensor:
        """Rank queries by how likely they find an object: (..., Q) of (..., Q, C) logits."""

    @abstractmethod
    def score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return score and class of every query (..., Q); the class K stands for no object."""

    @abstractmethod
    def choose(self, logits: Tensor, limit: int) -> Best:
        """Choose detections of (B, Q, C) logits, at most ``limit`` per image, best first.

        A limit of 0 stands for as many as there are queries.
        """


class SoftmaxWithNoObject(Classification):
    """A distribution over the classes and no-object, which comes last (DETR).

    Args:
        num_classes: K, without no-object.
        no_object_weight: weight of no-object in the loss; each class weighs 1.
    """

    name = "softmax"
    extra_rows = ("no-object",)

    def __init__(self, num_classes: int, no_object_weight: float = 0.1):
        super().__init__(num_classes)
        self.no_object_weight = no_object_weight
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    def normalise(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)

    def cost(self, normalised: Tensor) -> Tensor:
        return -normalised.exp()

    def loss(
        self, normalised: Tensor, layer: Tensor, image: Tensor, query: Tensor, labels: Tensor
    ) -> Tensor:
        """Sum the cross entropy, weighted with the classes' weights."""
        classes = torch.full(normalised.shape[:3], self.num_classes, device=normalised.device)
        classes[layer, image, query] = labels
        loss = F.nll_loss(
            normalised.flatten(0, 2), classes.flatten(), self.class_weights, reduction="none"
        )
        return loss.view(len(normalised), -1).sum(1)

    def total_weight(self, num_pairs: int, num_others: int) -> float:
        return num_pairs + self.no_object_weight * num_others

    def is_object(self, logits: Tensor, best: Tensor) -> Tensor:
        return best != self.num_classes

    def object_score(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1)[..., :-1].amax(-1)

    def score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.float().softmax(-1).max(-1)

    def choose(self, logits: Tensor, limit: int) -> Best:
        """Choose every query's best class that is not no-object (paper, section 4: inference)."""
        scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)
        if not limit:
            return Best(scores, classes, None)
        scores, query = scores.topk(min(limit, scores.shape[1]))
        return Best(scores, classes.gather(1, query), query)


class SigmoidFocal(Classification):
    """A probability of its own for every class, and the focal loss (Lin et al., 2017).

    Args:
        num_classes: K.
        alpha: weight of the classes that an object has; the others weigh 1 - alpha.
        gamma: how much what is easy counts less.
    """

    name = "focal"

    def __init__(self, num_classes: int, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__(num_classes)
        self.alpha = alpha
        self.gamma = gamma

    def init_bias(self, bias: nn.Parameter) -> None:
        """Start from a probability of 1% for every class, as most are absent."""
        nn.init.constant_(bias, -math.log(99))

    def normalise(self, logits: Tensor) -> Tensor:
        return logits

    def cost(self, normalised: Tensor) -> Tensor:
        p = normalised.sigmoid()
        present = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        absent = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        return present - absent

    def loss(
        self, normalised: Tensor, layer: Tensor, image: Tensor, query: Tensor, labels: Tensor
    ) -> Tensor:
        """Sum the loss of all classes as if none were present, and correct it for those that are.

        So no tensor of all queries and classes is needed to say which are.
        """
        matched = normalised[layer, image, query, labels]
        absent = sum_of_focal(normalised, self.gamma) - sum_of_focal(matched, self.gamma)
        present = sum_of_focal(-matched, self.gamma)
        return (1 - self.alpha) * absent + self.alpha * present

    def total_weight(self, num_pairs: int, num_others: int) -> None:
        return None

    def is_object(self, logits: Tensor, best: Tensor) -> Tensor:
        return logits.amax(-1) > 0

    def object_score(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits.amax(-1))

    def score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.float().sigmoid().max(-1)

    def choose(self, logits: Tensor, limit: int) -> Best:
        """Choose the best of all queries' classes; a query may be there with several."""
        limit = min(limit or logits.shape[1], logits[0].numel())
        scores, index = logits.float().flatten(1).sigmoid().topk(limit)
        return Best(scores, index % self.num_classes, index // self.num_classes)
