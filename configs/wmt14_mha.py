# SPDX-License-Identifier: Apache-2.0
"""WMT-14 with multi-head attention; see configs/wmt14.py.

The paper's "concatenate" rows: configs/wmt14_mha.py:key_features=256.
"""

from configs import fixed, wmt14

get_config = fixed(wmt14.get_config, 'mha')
