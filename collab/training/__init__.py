# SPDX-License-Identifier: Apache-2.0
"""Training: state, step, optimiser, evaluation, sharding and logs."""

from collab import extras

extras.need()
