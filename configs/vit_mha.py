# SPDX-License-Identifier: Apache-2.0
"""DeiT-B with multi-head attention; see configs/vit.py.

The paper's key widths: configs/vit_mha.py:key_features=384.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config(argument: str = '') -> ConfigDict:
  return vit.get_config(f'mha,{argument}')
