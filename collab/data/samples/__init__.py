# SPDX-License-Identifier: Apache-2.0
"""The bundled samples: data that is generated or comes with a library."""
