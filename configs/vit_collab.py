# SPDX-License-Identifier: Apache-2.0
"""DeiT-B with collaborative attention; see configs/vit.py.

The paper's key widths: configs/vit_collab.py:shared_dim=384.
"""

from configs import fixed, vit

get_config = fixed(vit.get_config, 'collab')
