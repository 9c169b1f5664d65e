"""Soft labels for soundscapes that nobody has labelled: made by teachers, checked, written with where they come from.

Two mistakes cost the second seed its second round: every window of a minute carried the prediction of the first, and
label columns were taken by position. Here the one is an error that names the file, and the other cannot be written.
What training makes of the probabilities (power, floor) is in its own config; how they are made is in LabelConfig.

labelling   teachers on soundscapes, file by file
table       the table of labels, with where it comes from
parts       what is done so far, kept for a run that is killed
students    which teachers each student learns from, and so which table
guards      labels that cannot be right
agreement   how far teachers agree
trust       what speaks for a table, and what against it
trust_page  the page that shows it
"""
from birdkit.pseudolabel.guards import read_for_training
from birdkit.pseudolabel.labelling import EnsembleTeachers, Labelled, label, label_files
from birdkit.pseudolabel.students import table_for
from birdkit.pseudolabel.table import (
    SURE,
    PseudoLabelError,
    TableWriter,
    empty,
    frontend_hash,
    provenance,
    read,
    stream,
    write_table,
)
from birdkit.pseudolabel.trust import Change, Example, Trust, assess

__all__ = ["SURE", "Change", "EnsembleTeachers", "Example", "Labelled", "PseudoLabelError", "TableWriter", "Trust",
           "assess", "empty", "frontend_hash", "label", "label_files", "provenance", "read", "read_for_training",
           "stream", "table_for", "write_table"]
