"""PaddleClas' models under their names and module paths, their weights files, and where these are published; everything else is above."""
