"""How good a model is, and what is wrong when it is not; `metrics` holds the measures, plain functions on arrays."""
