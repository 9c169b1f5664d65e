"""What post-processing and blending do to the metric, on what models said of soundscapes with a truth. No torch.

rows       what several models say of soundscapes with a known truth, before anything is done to it
measuring  what each post-processing and each way of blending does to the metric

The rows are made by birdkit.runs.effects, and birdkit.reports.effects shows what was measured.
"""
from birdkit.effects.measuring import ALPHA, Effect, Measured, Tried, measure
from birdkit.effects.rows import Rows

__all__ = ["ALPHA", "Effect", "Measured", "Rows", "Tried", "measure"]
