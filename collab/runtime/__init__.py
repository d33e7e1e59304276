# SPDX-License-Identifier: Apache-2.0
"""How runs survive: processes, signals, checkpoints, the workdir."""

from collab import extras

extras.need()
