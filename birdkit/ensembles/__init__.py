"""Several models as one: a TOML file says which models there are, how much each counts, and how they are blended.

files    that file, read, written and made ready to predict
binding  what post-processing needs of a competition's files, read when a run or an ensemble is prepared
weights  fitted on what the members say of a validation, and what that is worth beside equal ones

How members are blended is in birdkit.blending; ensembles are made of trained runs by birdkit.runs.ensembles.
"""
from birdkit.ensembles.binding import bind
from birdkit.ensembles.files import EnsembleFile, EnsembleMember, Prepared, load_ensemble, read_ensemble, write_ensemble
from birdkit.ensembles.weights import Fit, fit_weights

__all__ = ["EnsembleFile", "EnsembleMember", "Fit", "Prepared", "bind", "fit_weights", "load_ensemble", "read_ensemble",
           "write_ensemble"]
