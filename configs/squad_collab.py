# SPDX-License-Identifier: Apache-2.0
"""squad with collaborative attention; see configs/squad.py.

Key width: configs/squad_collab.py:shared_dim=256.
"""

from configs import squad


def get_config(argument=''):
  return squad.get_config(
    argument,
    dict(
      name='collab',
      shared_dim=lambda c: c.model.dim // 2,
      bias='content',
      mixing_init='normal',
    ),
  )
