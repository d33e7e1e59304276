# SPDX-License-Identifier: Apache-2.0
"""What trained attention holds: redundancy of heads, spectra of their energy."""
