"""Worlds to try aiopsd on: a seeded generator, a runner over the real stages, the demo, scorecards and benchmarks.

`python -m simulations` lists what can be run. Nothing here is shipped in the package; everything takes its seed, its
data folder and its output file as arguments.
"""
