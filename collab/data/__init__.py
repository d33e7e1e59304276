# SPDX-License-Identifier: Apache-2.0

from collab import extras

extras.need()
