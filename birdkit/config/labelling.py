"""How soundscapes that nobody has labelled become a table of pseudo-labels."""
from __future__ import annotations

from dataclasses import dataclass

from birdkit.config.base import in_unit, one_of

OTHERS = "others"
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
    families      "all": every student learns from all teachers. "others": each from those of other backbones alone, by
                  a table without its own, pseudo_labels_r<round>_not_<backbone>.parquet: a network that learns from its
                  own kind repeats its mistakes (BirdCLEF 2026 seventeenth place: it made three of four worse)
    out_of_fold   "all": a file is labelled by teachers that learnt nothing of it. "people": that learnt no label of a
                  person; what they know from pseudo-labels they may label again, as in every round of the BirdCLEF 2025
                  first place. The second place labelled out of fold from its third round on
    batch_size    clips that go through a network at once: more of them keep a GPU busy
    precision     "f32", or on a GPU "bf16"; a bundle has its own
    floor         probabilities below this are written as 0, in [0, 1] (BirdCLEF 2025 second place: 0.1); what training
                  makes of small probabilities is decided when it reads the table, so 0, the default, loses nothing
    least_peak    windows in which no class reaches this are not written, in [0, 1] (BirdCLEF 2025 second place: 0.5)
    most_share    largest share of all labels that one class may take, in (0, 1]; a class above is an error. In the
                  second seed's first round two frogs took more than half of them; it gave them higher thresholds
    share_from    labels that there must be before `most_share` speaks: among a few, one class is soon most of them
    recordings    True also labels the train recordings, each by teachers that were not trained on it: what
                  self-distillation learns missing secondary labels from

    A label, for most_share and share_from, is a probability of at least 0.5 in one window and class.
    """

    window_s: float | None = None
    stride_s: float | None = None
    clip_step_s: float | None = None
    mean: str = MEANS[0]
    families: str = "all"
    out_of_fold: str = "all"
    batch_size: int | None = None
    precision: str | None = None
    floor: float = 0.0
    least_peak: float = 0.0
    most_share: float = 0.5
    share_from: int = 500
    recordings: bool = False

    def __post_init__(self) -> None:
        one_of("labelling.mean", self.mean, MEANS)
        one_of("labelling.families", self.families, ("all", OTHERS))
        one_of("labelling.out_of_fold", self.out_of_fold, ("all", "people"))
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
