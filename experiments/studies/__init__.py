# SPDX-License-Identifier: Apache-2.0
"""Studies: what they compare, one file each; see experiments.sweep."""
