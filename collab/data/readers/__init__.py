# SPDX-License-Identifier: Apache-2.0
"""Readers of data sets in their published layouts."""
