"""How soundscapes that nobody has labelled become a table of pseudo-labels."""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from birdkit.config.base import in_unit, one_of

ALL, SAME_SPLIT, OTHERS = "all", "same_split", "other_families"  # see LabelConfig.teachers
PEOPLE = "people"  # see LabelConfig.out_of_fold
MEANS = ("probabilities", "logits")  # of several models, see LabelConfig.mean


@dataclass(frozen=True)
class LabelConfig:
    """How teachers label. Whatever is None is as in each teacher's own InferenceConfig, which also says how its windows
    are pooled and post-processed: teachers label exactly as they would submit.

    window_s      what a row of the table is about; None for the competition's window (5 s). The second seed's first
                  round had 6
    stride_s      from the start of one window to the next; None for window_s. Shorter, windows overlap: the second
                  seed's later rounds had windows of 6 s every 3. A longer one leaves audio unlabelled
    clip_step_s   from one clip that the network sees to the next: shorter than the clip, every moment is heard in
                  several clips, and their segments are averaged
    mean          of several teachers: of "probabilities", or of "logits", in which a sure teacher outweighs several
                  that only suspect
    teachers      of each student. "same_split": those of its own split alone. Teachers of other splits were trained on
                  the recordings that validate the student, and what it learns from them makes its score, and the gain
                  of its round, too high. "all", as in the published entries: the mean of more teachers is better, but
                  only the leaderboard can say what it brought. "other_families": those of other backbones alone, since
                  a network that learns from its own kind repeats its mistakes (BirdCLEF 2026 seventeenth place: it made
                  three of four worse). Who may not learn from all learns from a table of its own, see
                  birdkit.pseudolabel.students
    out_of_fold   "people": a file is labelled by teachers that learnt no label of a person from it; what they know from
                  pseudo-labels they may label again, as in every round of the BirdCLEF 2025 first place. "all": by
                  those that learnt nothing of it, as the second place did from its third round on. From round 2 on that
                  leaves to each teacher the soundscapes of its own split, so all splits must be trained, and `teachers`
                  be "all"
    batch_size    clips that go through a network at once: more of them keep a GPU busy
    precision     "f32", or on a GPU "bf16"; a bundle has its own
    floor         probabilities below this are written as 0, in [0, 1] (BirdCLEF 2025 second place: 0.1); what training
                  makes of small probabilities is decided when it reads the table, so 0, the default, loses nothing
    least_peak    windows in which no class reaches this are not written, in [0, 1] (BirdCLEF 2025 second place: 0.5)
    most_share    largest share of all labels that one class may take, in (0, 1]; a class above is an error. In the
                  second seed's first round two frogs took more than half of them; it gave them higher thresholds
    share_from    labels that there must be before `most_share` speaks: among a few, one class is soon most of them. A
                  class that is heard everywhere makes labels itself: in 564 windows of 47 real soundscapes teachers of
                  `small` made 26 to 109, at most 31 % of one class
    recordings    True also labels the train recordings, each by teachers that were not trained on it: what
                  self-distillation learns missing secondary labels from. A round with distil.self_share above 0 does
                  so anyway

    A label, for most_share and share_from, is a probability of at least 0.5 in one window and class.
    """

    window_s: float | None = None
    stride_s: float | None = None
    clip_step_s: float | None = None
    mean: str = MEANS[0]
    teachers: str = SAME_SPLIT
    out_of_fold: str = PEOPLE
    batch_size: int | None = None
    precision: str | None = None
    floor: float = 0.0
    least_peak: float = 0.0
    most_share: float = 0.5
    share_from: int = 50
    recordings: bool = False

    def __post_init__(self) -> None:
        one_of("labelling.mean", self.mean, MEANS)
        one_of("labelling.teachers", self.teachers, (SAME_SPLIT, ALL, OTHERS))
        one_of("labelling.out_of_fold", self.out_of_fold, (PEOPLE, ALL))
        if self.precision is not None:
            one_of("labelling.precision", self.precision, ("f32", "bf16"))
        in_unit("labelling.floor", self.floor)
        in_unit("labelling.least_peak", self.least_peak)
        if not 0 < self.most_share <= 1:
            raise ValueError(f"labelling.most_share = {self.most_share} is not in (0, 1]")
        for name in ("window_s", "stride_s", "clip_step_s", "batch_size", "share_from"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"labelling.{name} = {value} must be above 0")

    def check_splits(self, round: int, splits: Collection[int], n_splits: int) -> None:
        """Raise ValueError where nobody may label some of the soundscapes for a round.

        splits  whose students of the round before are the teachers; one of split -1 has learnt from all soundscapes
        """
        if self.out_of_fold != ALL or round < 2:
            return
        if self.teachers == SAME_SPLIT:
            raise ValueError(f"labelling.out_of_fold = {ALL!r} leaves to a teacher of round {round} only the "
                             f"soundscapes that validate its split; with labelling.teachers = {SAME_SPLIT!r} its "
                             f"students learn from all but these. Set the one to {PEOPLE!r}, or the other to {ALL!r}")
        missing = sorted(set(range(n_splits)) - set(splits))
        if missing:
            there, others = (", ".join(map(str, some)) for some in (sorted(splits), missing))
            raise ValueError(f"labelling.out_of_fold = {ALL!r} needs teachers of all {n_splits} splits in round "
                             f"{round}, but there are those of {n_splits - len(missing)} ({there}): all of them have "
                             f"learnt from the soundscapes of the others ({others}), and nobody would label these. "
                             f"Train all splits, or set labelling.out_of_fold = {PEOPLE!r}")
