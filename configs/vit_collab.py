# SPDX-License-Identifier: Apache-2.0
"""DeiT-B with collaborative attention; see configs/vit.py.

The paper's key widths: configs/vit_collab.py:shared_dim=384.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config(argument: str = '') -> ConfigDict:
  return vit.get_config(f'collab,{argument}')
