# SPDX-License-Identifier: Apache-2.0
"""What trained attention holds: how alike heads are, and their spectra."""
