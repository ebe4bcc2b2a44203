"""Measures of a set of images: plain functions on arrays that know nothing of models."""
