# SPDX-License-Identifier: Apache-2.0
"""WMT-14 with MHE-ADD (arXiv 2310.07911); see configs/wmt14.py."""

from ml_collections import ConfigDict

from configs import wmt14


def get_config(argument: str = '') -> ConfigDict:
  return wmt14.get_config(f'mhe_add,{argument}')
