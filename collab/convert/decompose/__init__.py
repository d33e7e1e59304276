# SPDX-License-Identifier: Apache-2.0
"""The decompositions that turn multi-head attention into another variant."""
