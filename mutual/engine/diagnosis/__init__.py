"""Diagnosis: what this machine, its devices, its disks and its ranks are, and what to set."""
