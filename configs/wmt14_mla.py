# SPDX-License-Identifier: Apache-2.0
"""wmt14 with `mla` in all places; see configs/wmt14.py."""

from configs import wmt14


def get_config(argument=''):
  c = wmt14.get_config(argument)
  heads = c.model.attention.num_heads
  c.model.attention = dict(
    name='mla', latent_dim=c.model.dim // 4, num_heads=heads
  )
  return c
