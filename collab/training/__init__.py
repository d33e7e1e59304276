# SPDX-License-Identifier: Apache-2.0
"""What train.py needs besides a task and a model."""

from collab import extras

extras.need()
