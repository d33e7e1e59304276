# SPDX-License-Identifier: Apache-2.0
"""WMT-14 with multi-head attention; see configs/wmt14.py.

The paper's "concatenate" rows: configs/wmt14_mha.py:key_features=256.
"""

from ml_collections import ConfigDict

from configs import wmt14


def get_config(argument: str = '') -> ConfigDict:
  return wmt14.get_config(f'mha,{argument}')
