# SPDX-License-Identifier: Apache-2.0
"""WMT-14 with collaborative attention; see configs/wmt14.py.

The paper's rows by key width: configs/wmt14_collab.py:shared_dim=256.
"""

from configs import fixed, wmt14

get_config = fixed(wmt14.get_config, 'collab')
