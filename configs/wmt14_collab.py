# SPDX-License-Identifier: Apache-2.0
"""WMT-14 with collaborative attention; see configs/wmt14.py.

The paper's rows by key width: configs/wmt14_collab.py:shared_dim=256.
"""

from ml_collections import ConfigDict

from configs import wmt14


def get_config(argument: str = '') -> ConfigDict:
  return wmt14.get_config(f'collab,{argument}')
