"""Where things lie and how long there is, on Kaggle and anywhere else. No torch.

places    Kaggle's mounts, its scored rerun, the work folder, the deadline
disk      whether the work folder has room for what will be written
manifest  what a notebook ran with, kept beside what it wrote
offline   installs birdkit from attached datasets of wheels; it runs from inside a wheel, before anything is installed
"""
from birdkit.kaggle.disk import DiskSpaceError
from birdkit.kaggle.places import (
    AUDIO_SUFFIXES,
    INPUT_ROOTS,
    RECORDING_FOLDERS,
    ROOT,
    SAMPLE,
    SESSION_H,
    SOUNDSCAPE_FOLDERS,
    TABLES,
    Deadline,
    MissingInputError,
    Workspace,
    find_competition,
    find_dataset,
    find_test_audio,
    is_kaggle,
    is_rerun,
    pseudo_labels_name,
    run_type,
    working_dir,
)

__all__ = ["AUDIO_SUFFIXES", "INPUT_ROOTS", "RECORDING_FOLDERS", "ROOT", "SAMPLE", "SESSION_H", "SOUNDSCAPE_FOLDERS",
           "TABLES", "Deadline", "DiskSpaceError", "MissingInputError", "Workspace", "find_competition", "find_dataset",
           "find_test_audio", "is_kaggle", "is_rerun", "pseudo_labels_name", "run_type", "working_dir"]
