"""Kernels for attention over paged KV, linear layers and sampling. Each is tested against plain torch in float64."""
