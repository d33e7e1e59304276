# SPDX-License-Identifier: Apache-2.0
"""mlm with collaborative attention; see configs/mlm.py.

Key width: configs/mlm_collab.py:shared_dim=256.
"""

from configs import mlm


def get_config(argument=''):
  return mlm.get_config(
    argument,
    dict(
      name='collab',
      shared_dim=lambda c: c.model.dim // 2,
      bias='content',
      mixing_init='normal',
    ),
  )
