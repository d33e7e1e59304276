# SPDX-License-Identifier: Apache-2.0
"""Image augmentation by DeiT's recipe (arXiv 2012.12877, table 9).

Operations on single pictures use Pillow: decoding, RandAugment, resized crops.
Operations on arrays use NumPy on the whole batch. All randomness comes from
generators that the caller passes in.

Axes: B images, S side, C channels, N classes.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from collab import checks

CROPS = ('resized', 'padded', 'none')
ZOOM = 0.875  # evaluation shows this share of the shorter side
GREY = 128  # fills what a shear, rotation or translation uncovers


class Recipe(NamedTuple):
  """The augmentation of training images; a value of 0 or 'none' is off.

  Attributes:
    crop: 'resized' (a part of 8 to 100 % of the area), 'padded', or 'none'.
    padding: pixels added on each side for 'padded' crops.
    flip: whether half of the images are mirrored left to right.
    ops: number of RandAugment operations for each image.
    magnitude: magnitude of RandAugment, 0 to 10.
    erasing: probability that a rectangle becomes noise.
    mixup: alpha of the Beta distribution of the other image's share.
    cutmix: alpha for the share of the area. With both, half of the batches use
      mixup and half cutmix.
  """

  crop: str = 'resized'
  padding: int = 0
  flip: bool = True
  ops: int = 2
  magnitude: float = 9.0
  erasing: float = 0.25
  mixup: float = 0.8
  cutmix: float = 1.0

  def check(self) -> None:
    """Raises ValueError for an impossible value."""
    checks.one_of('data.augment.crop', self.crop, CROPS)
    if (self.padding > 0) != (self.crop == 'padded') or self.padding < 0:
      raise ValueError(
        f'data.augment.padding={self.padding} with crop={self.crop!r}; a '
        'padded crop has padding above 0, the others 0.'
      )
    for name, most in dict(magnitude=10, erasing=1).items():
      checks.within(f'data.augment.{name}', getattr(self, name), 0, most)
    for name in ('ops', 'mixup', 'cutmix'):
      checks.at_least(f'data.augment.{name}', getattr(self, name), 0)

  @property
  def mixes(self) -> bool:
    return self.mixup > 0 or self.cutmix > 0


# Single pictures, by Pillow ---------------------------------------------------


def train_picture(
  image: Image.Image, size: int, recipe: Recipe, rng: np.random.Generator
) -> np.ndarray:
  """Prepares a training picture: crops, resizes and applies RandAugment.

  Args:
    image: Pillow's, 'L' or 'RGB', of any size.
    size: S.
    recipe: Recipe.
    rng: numpy Generator of this picture.

  Returns:
    uint8 [S, S, C].
  """
  if recipe.crop == 'resized':
    box = crop_box(image.size, rng)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box)
  else:
    image = _fit(image, size)
  for _ in range(recipe.ops):
    image = rand_augment(image, recipe.magnitude, rng)
  return _array(image)


def eval_picture(image: Image.Image, size: int, recipe: Recipe) -> np.ndarray:
  """Takes the middle of a picture, uint8 [S, S, C]; see train_picture.

  Training on resized crops shows things larger. After it the middle is enlarged
  by 1 / ZOOM, unless the picture already has the size.
  """
  zoom = ZOOM if recipe.crop == 'resized' else 1.0
  return _array(_fit(image, size, zoom))


def crop_box(
  size: tuple[int, int],
  rng: np.random.Generator,
  area: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[float, float, float, float]:
  """Draws Inception's random crop: (left, upper, right, lower).

  The area is uniform and the aspect ratio log-uniform. After ten draws that do
  not fit, the crop is the middle in the nearest ratio that fits.
  """
  width, height = size
  for _ in range(10):
    part = rng.uniform(*area) * width * height
    aspect = math.exp(rng.uniform(*map(math.log, ratio)))
    w, h = round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
    if 0 < w <= width and 0 < h <= height:
      left, upper = rng.integers((width - w + 1, height - h + 1)).tolist()
      return left, upper, left + w, upper + h
  aspect = min(max(width / height, ratio[0]), ratio[1])
  w, h = min(width, height * aspect), min(height, width / aspect)
  left, upper = (width - w) / 2, (height - h) / 2
  return left, upper, left + w, upper + h


def _fit(image, size, zoom=1.0):
  """Crops the middle square, `zoom` of the shorter side, and resizes it."""
  if image.size == (size, size):
    return image
  return ImageOps.fit(image, (size, size), bleed=(1 - zoom) / 2)


def _array(image):
  return np.asarray(image).reshape(*image.size[::-1], -1)


# RandAugment ------------------------------------------------------------------


def _affine(image, *matrix):
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    Image.Resampling.BILINEAR,
    fillcolor=_grey(image),
  )


def _rotate(image, degrees):
  bilinear = Image.Resampling.BILINEAR
  return image.rotate(degrees, bilinear, fillcolor=_grey(image))


def _grey(image):
  return (GREY,) * len(image.getbands())


def _shift(image, x, y):
  return _affine(image, 1, 0, x * image.width, 0, 1, y * image.height)


def _enhance(kind):
  return lambda image, s, sign: kind(image).enhance(1 + sign * 0.9 * s)


# Maps a name to (image, strength 0 to 1, sign) -> image; AutoAugment's ranges.
OPERATIONS = dict(
  identity=lambda image, s, sign: image,
  auto_contrast=lambda image, s, sign: ImageOps.autocontrast(image),
  equalize=lambda image, s, sign: ImageOps.equalize(image),
  rotate=lambda image, s, sign: _rotate(image, sign * 30 * s),
  solarize=lambda image, s, sign: ImageOps.solarize(image, 256 - 256 * s),
  color=_enhance(ImageEnhance.Color),
  posterize=lambda image, s, sign: ImageOps.posterize(image, round(8 - 4 * s)),
  contrast=_enhance(ImageEnhance.Contrast),
  brightness=_enhance(ImageEnhance.Brightness),
  sharpness=_enhance(ImageEnhance.Sharpness),
  shear_x=lambda image, s, sign: _affine(image, 1, sign * 0.3 * s, 0, 0, 1, 0),
  shear_y=lambda image, s, sign: _affine(image, 1, 0, 0, sign * 0.3 * s, 1, 0),
  translate_x=lambda image, s, sign: _shift(image, sign * 0.45 * s, 0),
  translate_y=lambda image, s, sign: _shift(image, 0, sign * 0.45 * s),
)


def rand_augment(
  image: Image.Image,
  magnitude: float,
  rng: np.random.Generator,
  spread: float = 0.5,
) -> Image.Image:
  """Applies one random operation of RandAugment (arXiv 1909.13719, section 3).

  Its strength is N(magnitude, spread), clipped to 0 to 10, over 10; DeiT uses
  spread 0.5. An operation with two directions takes either at random.
  """
  names = tuple(OPERATIONS)
  operation = OPERATIONS[names[rng.integers(len(names))]]
  strength = np.clip(rng.normal(magnitude, spread), 0, 10) / 10
  return operation(image, float(strength), 1 - 2 * int(rng.integers(2)))


# Batches, by NumPy ------------------------------------------------------------


def padded_crop(images: np.ndarray, padding: int, u: np.ndarray) -> np.ndarray:
  """Moves every image by up to `padding` pixels, and fills with black.

  Args:
    images: [B, S, S, C].
    padding: pixels.
    u: [B, 2] in [0, 1).
  """
  B, S, _, _ = images.shape
  p = padding
  padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (S, S), (1, 2))
  y, x = (u * (2 * p + 1)).astype(int).T
  return np.moveaxis(windows[np.arange(B), y, x], 1, -1)


def flip(images: np.ndarray, u: np.ndarray) -> np.ndarray:
  """Mirrors the images [B, S, S, C] where u [B] < 1/2."""
  return np.where(u[:, None, None, None] < 0.5, images[:, :, ::-1], images)


def normalize(
  images: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
  """Computes (images / 255 - mean) / std, float32 from uint8 [B, S, S, C]."""
  scale = 1 / (255 * np.asarray(std, np.float32))
  shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
  return images * scale - shift


def erase(image: np.ndarray, rng: np.random.Generator) -> None:
  """Writes noise N(0, 1) into a random rectangle of image [S, S, C].

  Random erasing (arXiv 1708.04896): 2 to 33 % of the area, aspect ratio
  log-uniform in 0.3 to 1 / 0.3; sides longer than the image are cut.
  """
  S, _, C = image.shape
  area = rng.uniform(0.02, 1 / 3) * S * S
  ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
  h, w = (
    min(S, max(1, round(math.sqrt(area * r)))) for r in (ratio, 1 / ratio)
  )
  y, x = rng.integers((S - h + 1, S - w + 1))
  image[y : y + h, x : x + w] = rng.standard_normal((h, w, C), np.float32)


def mix(
  images: np.ndarray,
  targets: np.ndarray,
  recipe: Recipe,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Mixes rows 2i and 2i + 1 by mixup or cutmix, one draw for the batch.

    mixup (arXiv 1710.09412):   x_i = l x_i + (1 - l) x_j
    cutmix (arXiv 1905.04899):  a rectangle of x_j, 1 - l of the area, into x_i

  and targets l t_i + (1 - l) t_j, l ~ Beta(alpha, alpha). For cutmix, l is
  recomputed after the rectangle has been cut at the border.

  Args:
    images: float32 [B, S, S, C]; B is even, so that hosts mix their own rows.
    targets: float32 [B, N].
    recipe: Recipe.
    rng: numpy Generator, the same on all hosts.
  """
  both = recipe.mixup > 0 and recipe.cutmix > 0
  cut = rng.random() < 0.5 if both else recipe.cutmix > 0
  alpha = recipe.cutmix if cut else recipe.mixup
  share = rng.beta(alpha, alpha)
  other = np.arange(len(images)) ^ 1
  if cut:
    S = images.shape[1]
    half = S * math.sqrt(1 - share) / 2
    middle = rng.integers(S, size=2)
    top, left = np.maximum(np.round(middle - half), 0).astype(int)
    bottom, right = np.minimum(np.round(middle + half), S).astype(int)
    mixed = images.copy()
    mixed[:, top:bottom, left:right] = images[other, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / S**2
  else:
    mixed = share * images + (1 - share) * images[other]
  targets = share * targets + (1 - share) * targets[other]
  return mixed.astype(np.float32), targets.astype(np.float32)
