# SPDX-License-Identifier: Apache-2.0
"""Studies: what is compared, one file each; see experiments.sweep."""
