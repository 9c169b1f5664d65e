"""A mini-competition in the layout of a year of BirdCLEF, made from nothing: for the demo and the tests.

generating   the whole competition, and its truth apart
layouts      tables and names of each year's competition
calls        invented animals and the sound of them
ambience     noise of known colour, and the air of invented places
composition  soundscapes of known sounds over a background; validation composes with it, too
"""
from birdkit.synthesis.generating import MARKER, TINY, Generated, generate

__all__ = ["MARKER", "TINY", "Generated", "generate"]
