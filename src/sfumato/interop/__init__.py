"""Weights that others trained, made into run folders."""

from .diffusers import from_diffusers, to_diffusers
from .weights import PUBLISHED, import_weights

__all__ = ["PUBLISHED", "from_diffusers", "import_weights", "to_diffusers"]
