"""What a host fixed, as data."""
from __future__ import annotations

from dataclasses import dataclass

PROBABILITIES, TRUE_FALSE, NAMES = "probabilities", "true_false", "names"  # what a cell of a submission holds
ROW_FORMATS = (PROBABILITIES, TRUE_FALSE, NAMES)


class ProfileError(ValueError):
    """The competition's files do not fit what is known of any year, or not each other."""


@dataclass(frozen=True)
class Competition:
    """One year's rules and file layout.

    n_classes     in the host's list; a small copy of a year may have fewer
    window_s      what one row of the submission is about
    soundscape_s  length of one test file
    test_files    about how many the scored run has
    metric        a name in birdkit.metrics.METRICS
    row_format    what a cell of the submission holds. "probabilities" in [0, 1], a column of each class; "true_false",
                  a row for each window and scored class, in the column "target"; "names" of the classes that are
                  heard, separated by a space, or "nocall", in the column "birds"
    time_limit_s  of the scored run on the CPU
    train_table   the table of recordings, with at least `columns`
    class_table   the table whose primary_label column holds every class and nothing else; "" where there is none, and
                  the sample submission alone says what the classes are
    unlabelled    the folder of soundscapes to train on without labels; "" where there is none
    signature     files that tell the year apart, "file:column" where a column is asked of a table
    source        where these facts come from
    labelled      the table of spans of soundscapes that the host labelled; "" where there is none
    labelled_in   the folder of those soundscapes
    audio         the folder of the recordings
    recording     the path of a recording inside that folder, of the columns of its row
    row_id        how a row is named: {stem} of the test file, or its first two parts {id} and {site} (the third is its
                  date); {bird}; {end_s}, the second at which the window ends
    guessed       what is not known but taken from another year or from the files, in words; empty for a known year
    """

    year: int
    place: str
    n_classes: int
    window_s: float
    soundscape_s: float
    test_files: int
    metric: str
    row_format: str
    time_limit_s: float
    train_table: str
    columns: tuple[str, ...]
    class_table: str
    unlabelled: str
    signature: tuple[str, ...]
    source: str
    labelled: str = ""
    labelled_in: str = ""
    audio: str = "train_audio"
    recording: str = "{filename}"
    row_id: str = "{stem}_{end_s}"
    guessed: tuple[str, ...] = ()

    @property
    def windows(self) -> int:
        """Rows of one test file, for each class where rows are of a class."""
        return round(self.soundscape_s / self.window_s)
