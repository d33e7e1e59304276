# SPDX-License-Identifier: Apache-2.0
"""DeiT-B with multi-head attention; see configs/vit.py.

The paper's key widths: configs/vit_mha.py:key_features=384.
"""

from configs import fixed, vit

get_config = fixed(vit.get_config, 'mha')
