"""What is done to the probabilities of one soundscape after the models: pure functions on (windows, classes) arrays.

Every function takes all windows of *one* soundscape in order of time and returns an array of the same shape, float64
in [0, 1]. A run config lists members by name and `apply` runs them in that order, the same in validation,
pseudo-labelling and submission. Nothing here looks across soundscapes, so a file's rows do not depend on which others
are predicted with it.

Some go by more than the array. The names of the classes and the soundscape's file name are told by whoever applies
them. What a competition's files say (groups of classes, numbers of recordings, what was heard where) is an option,
which birdkit.ensembles.binding fills in when a run is prepared: it then stands in the run config, and so in every
checkpoint.
"""
from birdkit.postprocess.base import FROM_COMPETITION, POSTPROCESS, apply, check_members, options_of
from birdkit.postprocess.gates import GATES, gate
from birdkit.postprocess.kinship import frequency_penalty, smooth_relatives
from birdkit.postprocess.neighbours import delta_shift, smooth, smooth_by_group
from birdkit.postprocess.priors import RecorderName, count_places, site_hour_prior
from birdkit.postprocess.whole_file import add_file_mean, power_of_low_ranked, pull_to_file_max, scale_by_file_top

__all__ = ["FROM_COMPETITION", "GATES", "POSTPROCESS", "RecorderName", "add_file_mean", "apply", "check_members",
           "count_places", "delta_shift", "frequency_penalty", "gate", "options_of", "power_of_low_ranked",
           "pull_to_file_max", "scale_by_file_top", "site_hour_prior", "smooth", "smooth_by_group", "smooth_relatives"]
