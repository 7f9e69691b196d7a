"""Transforms: what becomes of an image before a peer reads it, drawn by counting."""
