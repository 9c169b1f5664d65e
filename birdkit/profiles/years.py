"""BirdCLEF 2021 to 2026, a dozen declarative lines each. Nothing in here is a choice of ours."""
from __future__ import annotations

import logging

from birdkit.profiles.competition import NAMES, PROBABILITIES, TRUE_FALSE, Competition, ProfileError

LOG = logging.getLogger(__name__)

_OLD_COLUMNS = ("primary_label", "secondary_labels", "filename", "rating", "author")
_NEW_COLUMNS = ("primary_label", "secondary_labels", "filename", "collection", "rating", "author")
_TAXONOMY = "eBird_Taxonomy_v2021.csv"

PROFILES: dict[int, Competition] = {year.year: year for year in (
    # The limit of its run is what competitors reported; the rules' own page was not to be had.
    Competition(
        year=2021, place="the Americas (COL, COR, SNE, SSW)", n_classes=397, test_files=80,
        window_s=5, soundscape_s=600, metric="row_f1", row_format=NAMES, time_limit_s=180 * 60,
        train_table="train_metadata.csv", columns=_OLD_COLUMNS, class_table="train_metadata.csv", unlabelled="",
        signature=("train_metadata.csv", "train_short_audio", "sample_submission.csv:birds"),
        source="https://www.kaggle.com/competitions/birdclef-2021; the 1st and 2nd place's papers (CEUR 2936, "
               "arXiv:2107.07728)",
        labelled="train_soundscape_labels.csv", labelled_in="train_soundscapes", audio="train_short_audio",
        recording="{primary_label}/{filename}", row_id="{id}_{site}_{end_s}"),
    # The host called its metric closest to a macro F1, with true positives and true negatives of each scored bird
    # weighing the same: the mean of both rates. The limit of its run as in 2021.
    Competition(
        year=2022, place="Hawaii", n_classes=152, test_files=5500,
        window_s=5, soundscape_s=60, metric="balanced_accuracy", row_format=TRUE_FALSE, time_limit_s=540 * 60,
        train_table="train_metadata.csv", columns=_OLD_COLUMNS, class_table="train_metadata.csv", unlabelled="",
        signature=("train_metadata.csv", "scored_birds.json", "sample_submission.csv:target"),
        source="https://www.kaggle.com/competitions/birdclef-2022", row_id="{stem}_{bird}_{end_s}"),
    Competition(
        year=2023, place="Kenya", n_classes=264, test_files=200,
        window_s=5, soundscape_s=600, metric="padded_cmap", row_format=PROBABILITIES, time_limit_s=120 * 60,
        train_table="train_metadata.csv", columns=_OLD_COLUMNS, class_table="train_metadata.csv", unlabelled="",
        signature=("train_metadata.csv", _TAXONOMY),
        source="https://www.kaggle.com/competitions/birdclef-2023"),
    Competition(
        year=2024, place="Western Ghats, India", n_classes=182, test_files=1100,
        window_s=5, soundscape_s=240, metric="macro_roc_auc", row_format=PROBABILITIES, time_limit_s=120 * 60,
        train_table="train_metadata.csv", columns=_OLD_COLUMNS, class_table="train_metadata.csv",
        unlabelled="unlabeled_soundscapes",
        signature=("train_metadata.csv", _TAXONOMY, "unlabeled_soundscapes"),
        source="https://www.kaggle.com/competitions/birdclef-2024"),
    Competition(
        year=2025, place="El Silencio, Colombia", n_classes=206, test_files=700,
        window_s=5, soundscape_s=60, metric="macro_roc_auc", row_format=PROBABILITIES, time_limit_s=90 * 60,
        train_table="train.csv", columns=_NEW_COLUMNS, class_table="taxonomy.csv", unlabelled="train_soundscapes",
        signature=("train.csv", "taxonomy.csv:class_name"),
        source="https://www.kaggle.com/competitions/birdclef-2025"),
    Competition(
        year=2026, place="Pantanal, Brazil", n_classes=234, test_files=600,
        window_s=5, soundscape_s=60, metric="macro_roc_auc", row_format=PROBABILITIES, time_limit_s=90 * 60,
        train_table="train.csv", columns=_NEW_COLUMNS, class_table="taxonomy.csv", unlabelled="train_soundscapes",
        signature=("train.csv", "taxonomy.csv:class_name", "train_soundscapes_labels.csv"),
        source="https://www.kaggle.com/competitions/birdclef-2026",
        labelled="train_soundscapes_labels.csv", labelled_in="train_soundscapes"),
)}


def profile(year: int) -> Competition:
    """The profile of a year; ProfileError lists the years there are.

    >>> profile(2025).windows, profile(2021).windows
    (12, 120)
    """
    if year not in PROFILES:
        raise ProfileError(f"no profile for {year}; there is: {', '.join(map(str, PROFILES))}")
    return PROFILES[year]


def nearest(year: int, form: str) -> Competition:
    """The profile of a year, or, of a year to come, the latest whose submissions are of this form, which is logged.

    form  one of birdkit.profiles.ROW_FORMATS

    Raises ProfileError for a year before the known ones.

    >>> nearest(2024, "names").year, nearest(2031, "names").year
    (2024, 2021)
    """
    if year <= max(PROFILES):
        return profile(year)
    found = max((known for known in PROFILES.values() if known.row_format == form), key=lambda known: known.year)
    LOG.warning("no profile for %d; guessed: metric %s, as in %d, the latest year whose submissions hold %s", year,
                found.metric, found.year, form)
    return found
