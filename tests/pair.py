"""The recipe that tests of the recipe floor begin with."""

BASE = """\
name: test
peers:
  a: {model: pplcnet_x0_25}
  b: {model: pplcnet_x0_25}
objectives:
  - {loss: cross_entropy}
"""
