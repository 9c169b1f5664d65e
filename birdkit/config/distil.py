"""What a run learns from teachers beside its labels."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from birdkit.config.base import in_unit, one_of

TABLES = (".parquet", ".npz")  # what a table of a teacher may be
NETWORK = ".onnx"


@dataclass(frozen=True)
class DistilConfig:
    """Two ways to learn more than the labels say; both are off by default.

    Self-distillation (BirdCLEF 2025 fifth place): people name the loudest animal of a recording, and forget the others.
    From round 1 on, what teachers of the round before heard in the windows of a recording, p, joins its target y:
    self_share * f(p) + (1 - self_share) * y with f(p) = clip(p * [p > self_threshold] + p^2, 0, 1).

    self_share      share of the teachers in the target, in [0, 1]; 0 for none, 0.7 as published
    self_threshold  probability above which f adds it as it is, in [0, 1]; 0.3 as published

    Distillation from one teacher of any kind, such as Perch v2 (1,536 features of 5 s at 32 kHz): while s, the
    schedule, is above 0,

    loss = (1 - s * (1 - label_weight)) * loss of the labels + s * weight * distance from the teacher

    The distance is the mean over the examples that are what the teacher heard. A table knows recordings alone, so
    examples into which animals were mixed learn from their labels alone; a network hears the mixed wave, and only
    mixing of spectrograms is more than it heard. How many counted is logged with every epoch.

    The 2026 eighth place added the distance of embeddings with a weight of 10: the defaults. The 2023 fourth place
    learnt from logits, 0.1 * BCE + 0.9 * KL at a temperature of 20: label_weight 0.1 and weight 0.9. The 2026 first
    place distilled first and learnt from labels alone afterwards: `until`, or a second run with model.weights.

    teacher         path of a table (.parquet or .npz, see birdkit.data.teacher_table) or of a network (.onnx, see
                    birdkit.training.teacher_model); empty for none
    kind            "embedding": a projection of the student's features, the mean over its segments, comes near the
                    teacher's features; the distance is 1 - cosine. "logits": the distance is the Kullback-Leibler
                    divergence of the softmax over the classes that both know
    width           features of the teacher's embedding, >= 1; 1536 is Perch v2's. Not read for logits
    output          name of the network's output; empty for its only one of shape (batch, features)
    labels          path of a CSV file whose first column, below a header, names the network's logits; only for those
    class_column    column of the competition's class table with the names that the teacher has for the classes, such as
                    "scientific_name"; empty where it calls them as the competition does
    class_names     the same as a list, in the order of the classes; birdkit.recipes.for_competition fills it in
    sample_rate_hz  of the waves that the network hears, > 0; 32,000 is Perch v2's
    peak            largest magnitude that each of its waves is brought to, >= 0; 0 leaves them as they are. 0.25 is
                    what perch-hoplite (Google, 2025) gives to Perch
    weight          of the distance, >= 0
    label_weight    of the labels' loss while s is 1, >= 0
    schedule        s over the run: "constant" (1 up to `until`, then 0), "linear" or "cosine" (from 1 down to 0 there)
    until           share of the run after which s is 0 and the teacher is not asked any more, in (0, 1]
    hidden          width of a layer with a ReLU in the projection, >= 0; 0 for a linear one (2026 first place)
    temperature     both logits are divided by this, > 0, and the divergence is multiplied by its square, so that
                    gradients stay as large (Hinton et al. 2015, arXiv:1503.02531)
    """

    self_share: float = 0.0
    self_threshold: float = 0.3
    teacher: str = ""
    kind: str = "embedding"
    width: int = 1536
    output: str = ""
    labels: str = ""
    class_column: str = ""
    class_names: tuple[str, ...] = ()
    sample_rate_hz: int = 32_000
    peak: float = 0.25
    weight: float = 10.0
    label_weight: float = 1.0
    schedule: str = "constant"
    until: float = 1.0
    hidden: int = 0
    temperature: float = 20.0

    def __post_init__(self) -> None:
        one_of("distil.kind", self.kind, ("embedding", "logits"))
        one_of("distil.schedule", self.schedule, ("constant", "linear", "cosine"))
        for name in ("self_share", "self_threshold", "until"):
            in_unit(f"distil.{name}", getattr(self, name))
        for name in ("peak", "weight", "label_weight", "hidden"):
            if getattr(self, name) < 0:
                raise ValueError(f"distil.{name} = {getattr(self, name)} must be >= 0")
        for name in ("width", "sample_rate_hz", "temperature", "until"):
            if getattr(self, name) <= 0:
                raise ValueError(f"distil.{name} = {getattr(self, name)} must be above 0")
        if self.teacher and PurePath(self.teacher).suffix not in (*TABLES, NETWORK):
            raise ValueError(f"distil.teacher = {self.teacher!r} must end with one of "
                             f"{', '.join((*TABLES, NETWORK))}")
        unread = {"output": not self.is_network, "labels": not self.is_network or self.kind != "logits",
                  "class_column": self.kind != "logits", "class_names": self.kind != "logits"}
        for name in [name for name, never in unread.items() if never and getattr(self, name)][:1]:
            raise ValueError(f"distil.{name} = {getattr(self, name)!r}, but a teacher {self.teacher!r} of kind "
                             f"{self.kind!r} would not read it")
        if self.is_network and self.kind == "logits" and not self.labels:
            raise ValueError(f"distil.teacher = {self.teacher!r} gives logits: distil.labels must name their classes")

    @property
    def is_network(self) -> bool:
        """Whether the teacher is a network that hears waves, rather than a table."""
        return PurePath(self.teacher).suffix == NETWORK
