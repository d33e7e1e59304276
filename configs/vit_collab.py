# SPDX-License-Identifier: Apache-2.0
"""vit with collaborative attention; see configs/vit.py.

Key width: configs/vit_collab.py:shared_dim=384.
"""

from configs import vit


def get_config(argument=''):
  return vit.get_config(
    argument,
    dict(
      name='collab',
      shared_dim=lambda c: c.model.dim // 2,
      bias='content',
      mixing_init='normal',
    ),
  )
