# SPDX-License-Identifier: Apache-2.0
"""The bundled samples: data that is made here or comes with a library."""
