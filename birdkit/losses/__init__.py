"""Losses: one file for each, entered in `LOSSES`. A new member is a file and a line here."""
from birdkit.losses.asl import ASL
from birdkit.losses.base import LOSSES, CellLoss, ExampleLoss, Loss
from birdkit.losses.bce import BCE
from birdkit.losses.cross_entropy import CrossEntropy
from birdkit.losses.focal import Focal
from birdkit.losses.per_class import bind_classes
from birdkit.losses.soft_auc import SoftAUC
from birdkit.losses.sum import Sum
from birdkit.losses.two_way import TwoWay

__all__ = ["ASL", "BCE", "LOSSES", "CellLoss", "CrossEntropy", "ExampleLoss", "Focal", "Loss", "SoftAUC", "Sum",
           "TwoWay", "bind_classes"]
