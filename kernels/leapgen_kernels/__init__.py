"""Kernels for attention over paged KV. Each has a plain torch oracle in ``leapgen.engine.attention``."""
