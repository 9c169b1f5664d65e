"""What each year's host fixed: a dozen declarative lines a year. Nothing in here is a choice of ours.

Class lists are not typed in: they are read from the competition's own files.
"""
from birdkit.profiles.competition import (
    NAMES,
    PROBABILITIES,
    ROW_FORMATS,
    TRUE_FALSE,
    Competition,
    ProfileError,
)
from birdkit.profiles.files import SCORED, read_classes, read_groups, read_scored, read_shares
from birdkit.profiles.recognition import recognise
from birdkit.profiles.tables import BIRDS, ROW_ID, SAMPLE, TARGET, form_of, some_of
from birdkit.profiles.years import PROFILES, nearest, profile

__all__ = ["BIRDS", "NAMES", "PROBABILITIES", "PROFILES", "ROW_FORMATS", "ROW_ID", "SAMPLE", "SCORED", "TARGET",
           "TRUE_FALSE", "Competition", "ProfileError", "form_of", "nearest", "profile", "read_classes", "read_groups",
           "read_scored", "read_shares", "recognise", "some_of"]
