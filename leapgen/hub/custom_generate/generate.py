"""LeaP in the place of ``model.generate``: transformers loads this file, the package leapgen does the work."""

from leapgen.integrations.transformers import generate

__all__ = ["generate"]
