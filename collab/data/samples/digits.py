# SPDX-License-Identifier: Apache-2.0
"""The bundled sample of images: scikit-learn's handwritten digits."""

import numpy as np


def read() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Reads 1,797 digits of 8 x 8 pixels: 1,200 to train, 197 val, 400 test.

  Returns:
    {split: (images uint8 [N, 8, 8], labels int [N])}.
  """
  from sklearn import datasets  # slow, and the other sources do not need it

  digits = datasets.load_digits()
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  order = np.random.default_rng(0).permutation(len(images))
  train, val, test = (
    (images[rows], digits.target[rows])
    for rows in np.split(order, [1200, 1397])
  )
  return dict(train=train, val=val, test=test)
