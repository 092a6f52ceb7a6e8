"""A synthetic, VOC-like data set of 20 classes: little scenes of textured shapes, made from a seed, nothing on disk."""

import colorsys
import hashlib
import json
import math

import cv2
import numpy as np
from tqdm import tqdm

from tasks.errors import InputError
from tasks.source import BACKGROUND, VOID

VERSION = 1  # raise it whenever the same parameters give other pictures
NUM_CLASSES = 20
MIN_SIZE, MAX_SIZE = 32, 1024
REFERENCE_SIZE = 96  # lengths below are pixels at this image size and scale with it

HUES = {"red": 0.0, "yellow": 0.15, "green": 0.35, "blue": 0.6, "purple": 0.8}  # turns of the colour circle
COLOURS = list(HUES)
TEXTURES = ["stripes", "checks", "dots", "rings"]
SPLITS = ["train", "test"]

OBJECT_COUNTS = [0.4, 0.33, 0.19, 0.08]  # probability of 1, 2, 3, 4 objects
PARTNER_PROBABILITY = 0.5
HUE_JITTER = 0.02  # standard deviation, in turns
NOISE = 8.0  # standard deviation of a pixel, in grey levels


def _regular(corners: int, inner_radius: float | None = None) -> np.ndarray:
    """Outline of a regular polygon, or of a star with this inner radius: (points, 2), outer radius 1."""
    points = corners if inner_radius is None else 2 * corners
    angles = 2 * np.pi * np.arange(points) / points
    radii = np.ones(points)
    if inner_radius is not None:
        radii[1::2] = inner_radius
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _cross(arm: float = 0.34) -> np.ndarray:
    """Outline of a plus sign whose arms are `arm` wide on each side of the axis: (12, 2)."""
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turns = [quarter @ np.array([[c, s], [-s, c]]) for c, s in [(1, 0), (0, 1), (-1, 0), (0, -1)]]
    return np.concatenate(turns)


OUTLINES = {
    "circle": _regular(32),
    "square": _regular(4),
    "triangle": _regular(3),
    "star": _regular(5, inner_radius=0.45),
    "cross": _cross(),
}
SHAPES = list(OUTLINES)


def traits(class_id: int) -> tuple[str, str, str]:
    """Shape, colour and texture of a class (1 to 20).

    4 and 5 share no factor, so every pair of shape and texture occurs once. The colour is a Latin square over the two:
    classes of one colour differ in shape and in texture. So no trait alone tells the class, and any two of them do.
    """
    k = class_id - 1
    return SHAPES[k % 5], COLOURS[(k % 5 + k % 4) % 5], TEXTURES[k % 4]


def partner(class_id: int) -> int:
    """The class (1 to 20) that often comes along with this one: ten further on, so that 6-10 meet 16-20."""
    return (class_id - 1 + NUM_CLASSES // 2) % NUM_CLASSES + 1


def class_names() -> list[str]:
    """By class id, the background first."""
    return ["background", *("-".join(traits(class_id)) for class_id in range(1, NUM_CLASSES + 1))]


class Shapes:
    """A `tasks.source.Source` of synthetic scenes with 20 classes on background.

    A picture depends on (size, seed, split, index) alone, whatever else was rendered before. A split is rendered when
    it is first used and then kept in memory, size * size * 4 bytes per image; processes forked later share it.

    Args:
        size: height and width of every image in pixels, 32 to 1024.
        train_images, test_images: images per split, at least 1.
        seed: not negative.

    Raises:
        InputError: a value outside these ranges.
    """

    name = "shapes"

    def __init__(self, size: int = 96, train_images: int = 1200, test_images: int = 200, seed: int = 0) -> None:
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise InputError(f"shapes: the image size is {size}; choose one from {MIN_SIZE} to {MAX_SIZE} pixels.")
        for split, count in zip(SPLITS, (train_images, test_images), strict=True):
            if count < 1:
                raise InputError(f"shapes: {count} {split} images asked for; choose at least 1.")
        if seed < 0:
            raise InputError(f"shapes: the seed is {seed}; choose 0 or a positive integer.")
        self.size, self.seed = size, seed
        self.counts = {"train": train_images, "test": test_images}
        self.class_names = class_names()
        self._rendered: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def presence(self, split: str) -> np.ndarray:
        """bool (images, 256): which values occur in the mask of each image of the split."""
        return self._split(split)[2]

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB image uint8 (H, W, 3) and mask uint8 (H, W) of raw class ids: read-only views, copy before writing."""
        images, masks, _ = self._split(split)
        return images[index], masks[index]

    def image_id(self, split: str, index: int) -> str:
        """Unique within the split, for instance "train_00042"."""
        return f"{split}_{index:05d}"

    def fingerprint(self) -> str:
        """Hex SHA-256 of the generator's version, the parameters and the first pictures of both splits."""
        digest = hashlib.sha256(json.dumps([VERSION, self.size, self.seed, self.counts]).encode())
        for split, count in self.counts.items():
            for index in range(min(count, 4)):
                for array in render(self.size, self.seed, split, index):
                    digest.update(array.tobytes())
        return digest.hexdigest()

    def _split(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if split not in self._rendered:
            self._rendered[split] = self._render_split(split)
        return self._rendered[split]

    def _render_split(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (N, H, W, 3), masks (N, H, W) and presence (N, 256) of the whole split."""
        count = self.counts[split]
        images = np.empty((count, self.size, self.size, 3), np.uint8)
        masks = np.empty((count, self.size, self.size), np.uint8)
        presence = np.zeros((count, 256), bool)
        for i in tqdm(range(count), desc=f"Rendering shapes ({split})", unit="image", delay=2, disable=None):
            images[i], masks[i] = render(self.size, self.seed, split, i)
            presence[i, np.unique(masks[i])] = True
        for array in (images, masks, presence):
            array.setflags(write=False)  # an augmentation in place would change the data of every later epoch
        return images, masks, presence


def render(size: int, seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: RGB image uint8 (size, size, 3) and mask uint8 (size, size)."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    classes = _draw_classes(rng, _leading_class(seed, split, index))
    scale = size / REFERENCE_SIZE
    radii = rng.uniform(22, 34, len(classes)) * scale
    centres = _place(rng, radii, size)

    image = _backdrop(rng, size)
    mask = np.full((size, size), BACKGROUND, np.uint8)
    # The leading object comes last and hides the others where they overlap: its class is certain to be visible.
    for class_id, centre, radius in reversed(list(zip(classes, centres, radii, strict=True))):
        _paint_object(rng, image, mask, class_id, centre, radius, scale)
    return _photograph(rng, image), mask


def render_single(size: int, seed: int, split: str, index: int, class_id: int) -> np.ndarray:
    """An image of one object of this class, near the middle: RGB uint8 (size, size, 3)."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 2])
    image, unused = _backdrop(rng, size), np.zeros((size, size), np.uint8)
    centre, radius = rng.uniform(0.42, 0.58, 2) * size, rng.uniform(0.3, 0.42) * size
    _paint_object(rng, image, unused, class_id, centre, radius, size / REFERENCE_SIZE * 1.5)
    return _photograph(rng, image)


def _leading_class(seed: int, split: str, index: int) -> int:
    """Class of the first object. Every block of 20 images has each class once, so small splits miss none."""
    block, position = divmod(index, NUM_CLASSES)
    order = np.random.default_rng([seed, SPLITS.index(split), block, 1]).permutation(NUM_CLASSES)
    return int(order[position]) + 1


def _draw_classes(rng: np.random.Generator, leading: int) -> list[int]:
    """Classes of the 1 to 4 objects of an image; every further one is the partner of the one before it or any class."""
    classes = [leading]
    for _ in range(rng.choice(4, p=OBJECT_COUNTS)):
        by_chance = int(rng.integers(1, NUM_CLASSES + 1))
        classes.append(partner(classes[-1]) if rng.random() < PARTNER_PROBABILITY else by_chance)
    return classes


def _place(rng: np.random.Generator, radii: np.ndarray, size: int) -> list[np.ndarray]:
    """Centres (x, y): of eight random places each object takes the one that overlaps the earlier objects least."""
    centres: list[np.ndarray] = []
    for radius in radii:
        candidates = rng.uniform(0.18 * size, 0.82 * size, (8, 2))
        gaps = np.full(8, np.inf)
        for centre, other in zip(centres, radii, strict=False):
            distance = np.hypot(*(candidates - centre).T)
            gaps = np.minimum(gaps, distance / (radius + other))
        centres.append(candidates[np.argmax(gaps)])
    return centres


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB float32 (3,) in 0 to 255 of a hue in turns and a saturation and value in 0 to 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32) * 255


def _backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth noise at two scales, then clutter that looks like parts of objects: plain coloured patches, and lines."""
    coarse = rng.uniform(70, 190, (5, 5, 3)).astype(np.float32)
    fine = rng.uniform(-35, 35, (24, 24, 1)).astype(np.float32)
    image: np.ndarray = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
    grain: np.ndarray = cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR)
    image += grain[..., None]
    for _ in range(rng.integers(2, 6)):
        colour = _colour(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.3, 1))
        corners = rng.uniform(0, size, 2) + rng.uniform(-0.16, 0.16, (5, 2)) * size
        cv2.fillPoly(image, [corners.astype(np.int32)], colour.tolist())
    for _ in range(rng.integers(2, 6)):
        start, end = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(image, start, end, rng.uniform(0, 255, 3).tolist(), max(1, round(2 * size / REFERENCE_SIZE)))
    return image


def _paint_object(
    rng: np.random.Generator,
    image: np.ndarray,
    mask: np.ndarray,
    class_id: int,
    centre: np.ndarray,
    radius: float,
    scale: float,
) -> None:
    """Draw one object into the image, its class into the mask, and a void line two pixels wide along its border."""
    shape, colour, texture = traits(class_id)
    angle, squeeze = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline = (OUTLINES[shape] * radius * (1, squeeze)) @ rotation + centre

    inside = np.zeros_like(mask)
    cv2.fillPoly(inside, [np.rint(outline).astype(np.int32)], 1)
    border = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    inside = inside.astype(bool)
    mask[inside] = class_id
    mask[border] = VOID

    rows, columns = np.nonzero(inside)
    # Texture coordinates turn with the object but keep their scale: the period is in pixels, not in object sizes.
    u, v = rotation @ (np.stack([columns, rows]) - centre[:, None]) / (rng.uniform(7, 9) * scale)
    hue = HUES[colour] + rng.normal(0, HUE_JITTER)
    saturation, value = rng.uniform(0.65, 0.95), rng.uniform(0.75, 1)
    light, dark = _colour(hue, saturation, value), _colour(hue, saturation, value * rng.uniform(0.2, 0.45))
    image[rows, columns] = np.where(_pattern(texture, u, v)[:, None], dark, light)


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """bool like u: which of two tones a point has. u and v are in bars, the width of one stripe, check or ring."""
    if texture == "stripes":
        return np.floor(u) % 2 == 1
    if texture == "checks":
        return (np.floor(u) + np.floor(v)) % 2 == 1
    if texture == "dots":
        return (u % 2 - 1) ** 2 + (v % 2 - 1) ** 2 < 0.5
    return np.floor(np.hypot(u, v)) % 2 == 1  # rings


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a cheap camera makes of the scene: uneven and coloured light, slight blur, pixel noise; uint8."""
    light = rng.uniform(0.7, 1.15) * rng.uniform(0.8, 1.2, (2, 2, 1)) * rng.uniform(0.95, 1.05, 3)
    image = cv2.GaussianBlur(image, (3, 3), 0)
    shade: np.ndarray = cv2.resize(light.astype(np.float32), image.shape[:2], interpolation=cv2.INTER_LINEAR)
    noise: np.ndarray = NOISE * rng.standard_normal(image.shape, np.float32)
    image *= shade
    image += noise
    return np.clip(image, 0, 255).astype(np.uint8)
