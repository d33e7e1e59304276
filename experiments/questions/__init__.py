# SPDX-License-Identifier: Apache-2.0
"""Questions that the papers leave open, answered at small scale.

The modules are like those of experiments.tables, but their conclusions are
written by hand. Whoever makes new results has to check them.
"""
