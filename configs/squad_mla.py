# SPDX-License-Identifier: Apache-2.0
"""squad with `mla`; see configs/squad.py."""

from configs import squad


def get_config(argument=''):
  return squad.get_config(
    argument, dict(name='mla', latent_dim=lambda c: c.model.dim // 4)
  )
