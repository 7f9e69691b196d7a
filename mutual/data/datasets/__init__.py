"""Data sets: what each is read from, as splits of images and labels."""
