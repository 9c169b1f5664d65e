"""Losses: one file for each, entered in `LOSSES`. A new member is a file and a line here."""
from birdkit.losses.base import LOSSES, Loss
from birdkit.losses.bce import BCE
from birdkit.losses.cross_entropy import CrossEntropy
from birdkit.losses.focal import Focal
from birdkit.losses.two_way import TwoWay

__all__ = ["BCE", "LOSSES", "CrossEntropy", "Focal", "Loss", "TwoWay"]
