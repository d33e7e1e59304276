# SPDX-License-Identifier: Apache-2.0
"""HTML pages on runs: python -m experiments.report."""
