# SPDX-License-Identifier: Apache-2.0
"""Uses trained and converted models: text, translations, embeddings, maps."""

from collab import extras

extras.need()
