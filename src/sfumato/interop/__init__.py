"""Weights that others trained, made into run folders."""

from .weights import PUBLISHED, import_weights

__all__ = ["PUBLISHED", "import_weights"]
