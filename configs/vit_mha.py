# SPDX-License-Identifier: Apache-2.0
"""vit with multi-head attention; see configs/vit.py.

Key width: configs/vit_mha.py:key_features=384.
"""

from configs import vit


def get_config(argument=''):
  return vit.get_config(argument)
