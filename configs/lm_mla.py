# SPDX-License-Identifier: Apache-2.0
"""lm with `mla`; see configs/lm.py."""

from configs import lm


def get_config(argument=''):
  return lm.get_config(
    argument, dict(name='mla', latent_dim=lambda c: c.model.dim // 4)
  )
