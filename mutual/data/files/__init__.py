"""Files: how image files are found, decoded and examined."""
