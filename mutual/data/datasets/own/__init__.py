"""Data sets of the user's own, which a function of theirs returns."""
