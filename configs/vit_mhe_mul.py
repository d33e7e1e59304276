# SPDX-License-Identifier: Apache-2.0
"""vit with `mhe_mul`; see configs/vit.py."""

from configs import vit


def get_config(argument=''):
  return vit.get_config(argument, dict(name='mhe_mul', offset=1.0))
