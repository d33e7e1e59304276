# SPDX-License-Identifier: Apache-2.0
"""DeiT-B with multi-head attention; see configs/vit.py.

The paper's key widths: configs/vit_mha.py:key_features=384.
"""

from configs import vit


def get_config(argument: str = ''):
  return vit.get_config(f'mha,{argument}')
