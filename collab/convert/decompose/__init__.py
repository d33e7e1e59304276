# SPDX-License-Identifier: Apache-2.0
"""Decompositions that turn multi-head attention into another variant."""
