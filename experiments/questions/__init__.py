# SPDX-License-Identifier: Apache-2.0
"""What the papers leave open, answered at small scale; as experiments.tables.

Their conclusions are written by hand: whoever makes new results reads them.
"""
