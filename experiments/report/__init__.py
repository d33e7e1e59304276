# SPDX-License-Identifier: Apache-2.0
"""Makes HTML pages about runs: python -m experiments.report."""
