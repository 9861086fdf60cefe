"""Drawing of the embedded dataset: shapes that lie on a meadow, below a sky.

An image depends on its seed alone, not on how many others are drawn or in which order.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

THING_CLASSES = ("circle", "square", "triangle", "star", "cross")
STUFF_CLASSES = ("sky", "meadow")

# How far shapes lean to either side, in radians.
MAX_TILT = np.pi / 12
# A shape is put elsewhere if it would leave less than this share of another one visible.
MIN_VISIBLE = 0.6
# Shapes are drawn this many times larger and averaged, which smooths their edges.
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Difficulty:
    """What makes shapes hard to find.

    Attributes:
        max_shapes: the most shapes of an image.
        diameters: bounds of the diameters of the circles around the shapes, relative to the image's
            side.
        many_small: whether diameters are spread evenly by their ratio, not by their difference.
        min_color_distance: Euclidean distance, of 441 at most, of a shape's colour to the
            background's and other shapes'.
    """

    max_shapes: int = 3
    diameters: tuple[float, float] = (0.3, 0.6)
    many_small: bool = False
    min_color_distance: float = 120


EASY = Difficulty()
# At the usual side of 128 the smallest are 8 pixels wide.
HARD = Difficulty(max_shapes=8, diameters=(1 / 16, 0.5), many_small=True, min_color_distance=60)


@dataclass
class ShapesImage:
    """One image and its truth. H = W = the image's side in pixels, N = its number of shapes.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        classes: N indices into THING_CLASSES.
        masks: bool (N, H, W), the visible pixels of each shape. No two masks overlap.
        stuff: uint8 (H, W), indices into STUFF_CLASSES of what would be seen without the shapes.
    """

    image: np.ndarray
    classes: list[int]
    masks: np.ndarray
    stuff: np.ndarray


def draw_shapes_image(seed: list[int], size: int, difficulty: Difficulty = EASY) -> ShapesImage:
    """Draw one image.

    Args:
        seed: numbers in [0, 2**32) that identify the image.
        size: the image's side in pixels.
        difficulty: number and sizes of the shapes.

    Returns:
        The image with at least one shape, of each of which at least MIN_VISIBLE is visible.
    """
    # RandomState, because NumPy promises that its numbers stay the same in every version.
    random = np.random.RandomState(seed)
    canvas, stuff, colors = _draw_background(random, size)
    classes: list[int] = []
    masks: list[np.ndarray] = []
    full_areas: list[int] = []
    for _ in range(random.randint(1, difficulty.max_shapes + 1)):
        label = random.randint(len(THING_CLASSES))
        coverage = _place_shape(random, THING_CLASSES[label], masks, full_areas, size, difficulty)
        if coverage is None:
            continue
        colors.append(_random_color(random, colors, difficulty.min_color_distance))
        _paint(canvas, coverage, colors[-1])
        mask = coverage >= 0.5
        masks = [other & ~mask for other in masks] + [mask]
        full_areas.append(int(mask.sum()))
        classes.append(label)
    # Noise keeps flat regions from being an unmistakable sign of a shape.
    canvas += random.normal(0, 3, canvas.shape)
    return ShapesImage(
        image=canvas.clip(0, 255).astype(np.uint8),
        classes=classes,
        masks=np.stack(masks),
        stuff=stuff,
    )


def _draw_background(
    random: np.random.RandomState, size: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return the canvas (H, W, 3) in float, the stuff labels (H, W) and two stuff colours (3,)."""
    sky = np.array((200, 222, 242)) + random.uniform(-12, 12, 3)
    meadow = np.array((196, 214, 176)) + random.uniform(-12, 12, 3)
    x = np.linspace(0, 2 * np.pi, size)
    waves = np.sin(x * random.uniform(0.3, 1.5) + random.uniform(0, 2 * np.pi))
    horizon = size * (random.uniform(0.3, 0.6) + 0.07 * waves)
    stuff = (np.arange(size)[:, None] >= horizon[None, :]).astype(np.uint8)
    clouds = _smooth_noise(random, size, cells=(6, 3)) * 10
    blades = _smooth_noise(random, size, cells=(size // 6, size // 3)) * 9
    canvas = np.where(stuff[..., None] == 0, sky + clouds[..., None], meadow + blades[..., None])
    return canvas, stuff, [sky, meadow]


def _smooth_noise(random: np.random.RandomState, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Return noise (H, W) of unit variance whose grain is size / cells (rows, columns) pixels."""
    grid = random.normal(0, 1, [max(2, cell) for cell in cells]).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def _place_shape(
    random: np.random.RandomState,
    name: str,
    masks: list[np.ndarray],
    full_areas: list[int],
    size: int,
    difficulty: Difficulty,
) -> np.ndarray | None:
    """Return the coverage (H, W) in [0, 1] of a shape that hides no other too much, or None."""
    for _ in range(20):
        radius = size * _random_diameter(random, difficulty) / 2
        center = random.uniform(radius, size - radius, 2)
        points = _outline(name, random.uniform(-MAX_TILT, MAX_TILT)) * radius + center
        coverage = _rasterize(points, size)
        mask = coverage >= 0.5
        visible_areas = [int((other & ~mask).sum()) for other in masks]
        if np.greater_equal(visible_areas, MIN_VISIBLE * np.array(full_areas)).all():
            return coverage
    return None


def _random_diameter(random: np.random.RandomState, difficulty: Difficulty) -> float:
    if difficulty.many_small:
        return np.exp(random.uniform(*np.log(difficulty.diameters)))
    return random.uniform(*difficulty.diameters)


def _outline(name: str, tilt: float) -> np.ndarray:
    """Return the corners (P, 2) of a tilted shape, inside the unit circle."""
    # Corners are given by their directions, in turns from the top, and their distances.
    if name == "cross":
        half_width = 0.28
        tip, notch = np.arctan(half_width) / (2 * np.pi), 1 / 8
        turns = np.add.outer(np.arange(4) / 4, (-tip, tip, notch)).ravel()
        distances = np.tile((1, 1, half_width * np.sqrt(2) / np.hypot(1, half_width)), 4)
    elif name == "star":
        turns, distances = np.arange(10) / 10, np.tile((1, 0.45), 5)
    elif name == "square":
        turns, distances = np.arange(4) / 4 + 1 / 8, np.ones(4)
    else:
        corners = {"circle": 48, "triangle": 3}[name]
        turns, distances = np.arange(corners) / corners, np.ones(corners)
    angles = turns * 2 * np.pi + tilt
    return np.stack((np.sin(angles), -np.cos(angles)), axis=1) * distances[:, None]


def _rasterize(points: np.ndarray, size: int) -> np.ndarray:
    """Return which share of every pixel (H, W) a polygon (P, 2) covers."""
    large = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    ImageDraw.Draw(large).polygon([tuple(p) for p in points * SUPERSAMPLING], fill=255)
    return np.asarray(large.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _random_color(
    random: np.random.RandomState, others: list[np.ndarray], min_distance: float
) -> np.ndarray:
    """Return a vivid colour (3,) that differs from all others."""
    while True:
        hsv = random.uniform(0, 1), random.uniform(0.7, 1), random.uniform(0.4, 0.9)
        color = np.array(colorsys.hsv_to_rgb(*hsv)) * 255
        if min(np.linalg.norm(other - color) for other in others) >= min_distance:
            return color


def _paint(canvas: np.ndarray, coverage: np.ndarray, color: np.ndarray) -> None:
    """Paint a shape onto the canvas (H, W, 3), lit from above."""
    rows = np.flatnonzero(coverage.any(axis=1))
    light = np.interp(np.arange(len(coverage)), (rows[0], rows[-1]), (1.12, 0.82))
    alpha = coverage[..., None]
    canvas += alpha * (color * light[:, None, None] - canvas)
