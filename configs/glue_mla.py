# SPDX-License-Identifier: Apache-2.0
"""glue with `mla`; see configs/glue.py."""

from configs import glue


def get_config(argument=''):
  return glue.get_config(
    argument, dict(name='mla', latent_dim=lambda c: c.model.dim // 4)
  )
