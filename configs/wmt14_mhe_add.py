# SPDX-License-Identifier: Apache-2.0
"""WMT-14 with MHE-ADD (arXiv 2310.07911); see configs/wmt14.py."""

from configs import fixed, wmt14

get_config = fixed(wmt14.get_config, 'mhe_add')
