"""A table of runs that differ in one thing: each trained with several seeds, and compared.

plan     which trainings a table asks for
running  trains what is missing, and compares what is there

Differences and their intervals are in birdkit.metrics.comparison, tables and pictures in birdkit.reports.comparison.
"""
from birdkit.experiments.plan import Table, Trial, read_table, trials
from birdkit.experiments.running import Report, differences, run_table, tabulate

__all__ = ["Report", "Table", "Trial", "differences", "read_table", "run_table", "tabulate", "trials"]
