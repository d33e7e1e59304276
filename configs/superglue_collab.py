# SPDX-License-Identifier: Apache-2.0
"""superglue with collaborative attention; see configs/superglue.py.

Key width: configs/superglue_collab.py:shared_dim=256. The encoders of the paper
have the content bias and no biases on the shared projections.
"""

from configs import superglue


def get_config(argument=''):
  return superglue.get_config(
    argument,
    dict(
      name='collab',
      shared_dim=lambda c: c.model.dim // 2,
      bias='content',
      mixing_init='normal',
    ),
  )
