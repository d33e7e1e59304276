# SPDX-License-Identifier: Apache-2.0
"""lm with collaborative attention; see configs/lm.py.

Key width: configs/lm_collab.py:shared_dim=256.
"""

from configs import lm


def get_config(argument=''):
  return lm.get_config(
    argument,
    dict(
      name='collab',
      shared_dim=lambda c: c.model.dim // 2,
      bias='content',
      mixing_init='normal',
    ),
  )
