# SPDX-License-Identifier: Apache-2.0
"""Analyses trained attention: redundancy of heads, and their spectra."""
