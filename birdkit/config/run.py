"""A whole run, and what is done with its model: who validates, how soundscapes are predicted and scored."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from birdkit.config.base import Member, at_least, in_unit, one_of
from birdkit.config.distil import DistilConfig
from birdkit.config.frontend import FrontEndConfig
from birdkit.config.labelling import LabelConfig
from birdkit.config.model import ModelConfig
from birdkit.config.pseudo import PseudoConfig
from birdkit.config.training import AugmentConfig, DataConfig, TrainConfig
from birdkit.decisions import check_decision
from birdkit.postprocess import GATES, check_members
from birdkit.profiles import Competition, profile

VALIDATION_KINDS = ("recordings", "composed", "labelled", "composed_and_labelled")
POOLS = ("segments", "clips")  # what makes a window's probability, see birdkit.output.probabilities


@dataclass(frozen=True)
class InferenceConfig:
    """How a soundscape becomes window probabilities; the same in validation, pseudo-labelling and submission.

    clip_step_s  seconds from one clip to the next, None for contiguous clips. Below clip_s clips overlap, and what they
                 say of the same segment is averaged (2025 first place: +0.002 to +0.003; 2.5 s by the fifth: +0.007)
    clip_shifts_s  further grids of clips, each begun that much later, in seconds above 0 and below the step, and
                 averaged in the same way (2024 fourth place: 2.5 s, +0.009; 2026 twelfth: +0.010)
    window_shift  segments by which every window is also pooled earlier and later; its probability is the mean of the
                 three ("delta shift", 2 in 2023's second and 2025's and 2026's first places). 0 for none; costs nearly
                 nothing
    doubled_context  True shows each `clip_step_s` of audio twice in one clip, once with what lies before it and once
                 with what comes after: clip_s / 2 - clip_step_s seconds each (second seed, 2025: clips of 12 s every 5)
    scales       lengths of the clips the network sees, in clips of the front end: (1, 2, 4) also shows it images twice
                 and four times as long and averages the probabilities (2021 second place: 5, 10 and 20 s). Only for
                 networks that take images of any width
    pool         of what a window's probability is made, one of POOLS
    backend      "openvino", "onnxruntime", "torch", or "auto" for the first of them that is installed
    precision    "f32", or on a GPU "bf16": always explicit, OpenVINO alone would pick bf16 where the CPU has it. On a
                 CPU "bf16", "f16" (weights alone) and "int8" are of bundles, which `birdkit export` proves on audio
    postprocess  members of birdkit.postprocess, in order, applied per soundscape. What some need of a competition's
                 files (groups of classes, counts, what was heard where) is filled in by birdkit.ensembles.binding when
                 a run is prepared, and stands in the checkpoint
    gate         what call detectors that are given to birdkit.inference.predict do to the probabilities before that:
                 "none", "multiply" or "threshold", see birdkit.postprocess.gate. Training's own validation has none
    gate_threshold  probability of a call from which "threshold" lets a window pass
    decision     a member of birdkit.decisions: what makes heard or not heard of the probabilities of a whole submission
                 or validation, where the year asks for that (2021, 2022). Default: half a label a row
    """

    clip_step_s: float | None = None
    clip_shifts_s: tuple[float, ...] = ()
    window_shift: int = 0
    doubled_context: bool = False
    scales: tuple[int, ...] = (1,)
    pool: str = "segments"
    batch_size: int = 12
    backend: str = "auto"
    precision: str = "f32"
    postprocess: tuple[Member, ...] = ()
    gate: str = "none"
    gate_threshold: float = 0.5
    decision: Member = field(default_factory=lambda: Member("labels_per_row", {"labels": 0.5}))

    def __post_init__(self) -> None:
        one_of("pool", self.pool, POOLS)
        one_of("gate", self.gate, GATES)
        check_members(self.postprocess)
        in_unit("gate_threshold", self.gate_threshold)
        check_decision(self.decision)
        one_of("backend", self.backend, ("auto", "openvino", "onnxruntime", "torch"))
        one_of("precision", self.precision, ("f32", "bf16", "f16"))
        if self.window_shift < 0:
            raise ValueError(f"window_shift = {self.window_shift} must be a number of segments from 0 on")
        if self.doubled_context and (self.clip_step_s is None or self.scales != (1,)):
            raise ValueError(f"doubled_context needs clip_step_s, the seconds that a clip shows twice, and one scale; "
                             f"clip_step_s = {self.clip_step_s}, scales = {self.scales}")
        if not self.scales or min(self.scales) < 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales = {self.scales} must be different whole numbers from 1 on")


@dataclass(frozen=True)
class ValidationConfig:
    """What the validating split is scored on, through the same prediction as a submission.

    kind           "recordings": held-out recordings, each one row, the maximum over its windows.
                   "composed": soundscapes composed from held-out recordings over backgrounds of the validating
                   split, scored window by window, which is nearer to the test. "labelled": the soundscapes of that
                   split that the host labelled (2021, 2026), in the windows of which something is known; nearest to
                   the test, and the only kind that can score classes of which there is no recording.
                   "composed_and_labelled": both together
    n_soundscapes  composed soundscapes
    backgrounds    of composed soundscapes. "quiet": without what stands out of their noise (birdkit.data.quiet), for
                   nobody knows what calls in them, and a model that hears it would be marked down. "as_they_are": for
                   backgrounds in which nothing calls
    """

    kind: str = "recordings"
    n_soundscapes: int = 20
    backgrounds: str = "quiet"

    def __post_init__(self) -> None:
        one_of("validation.kind", self.kind, VALIDATION_KINDS)
        one_of("validation.backgrounds", self.backgrounds, ("quiet", "as_they_are"))
        at_least("validation.n_soundscapes", self.n_soundscapes, 1)


@dataclass(frozen=True)
class SplitConfig:
    """Which recordings validate which part of the cross-validation; notebook 01 assigns them.

    kind            "stratified": every part has about its share of each class; what belongs together (one author, one
                    place, one original) stays together. "site": parts are whole places, so that a part validates on
                    places that training has not heard. "coverage": part 0 holds one group of as many classes as can be
                    spared, on about as few recordings as that allows, and everything else always trains (BirdCLEF 2026
                    first place); the other parts are empty, so only split 0 can be scored
    min_per_class   a class with fewer recordings is always in training
    scored_only     True lets only recordings of the competition's scored classes validate (first seed, 2022)
    """

    kind: str = "stratified"
    min_per_class: int = 1
    scored_only: bool = False

    def __post_init__(self) -> None:
        one_of("splitting.kind", self.kind, ("stratified", "site", "coverage"))
        at_least("splitting.min_per_class", self.min_per_class)


@dataclass(frozen=True)
class TaskConfig:
    """What only the competition's files can say of its task; birdkit.recipes.for_competition fills it in.

    window_s      what a row of the submission is about; None, as in the two below, for what the profile of the year has
    soundscape_s  length of a test file
    metric        a name in birdkit.metrics.METRICS
    scored        the classes that count in validation and submission; none for all. In 2022, 21 of 152
    """

    window_s: float | None = None
    soundscape_s: float | None = None
    metric: str | None = None
    scored: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what one training run does; stored whole in its checkpoint.

    year        the competition profile
    task        what the competition's files say beyond it
    split       the part of the cross-validation that validates; -1 trains on everything and validates on nothing
    round       0 is supervised; from 1 on pseudo-labels of the round before are used
    labelling   how teachers make those
    """

    name: str = "default"
    year: int = 2025
    task: TaskConfig = TaskConfig()
    split: int = 0
    n_splits: int = 5
    round: int = 0
    seed: int = 0
    frontend: FrontEndConfig = field(default_factory=FrontEndConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    splitting: SplitConfig = SplitConfig()
    data: DataConfig = field(default_factory=DataConfig)
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: Member = field(default_factory=lambda: Member("bce"))
    distil: DistilConfig = field(default_factory=DistilConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = ValidationConfig()
    inference: InferenceConfig = InferenceConfig()
    labelling: LabelConfig = field(default_factory=LabelConfig)

    def __post_init__(self) -> None:
        if not -1 <= self.split < self.n_splits:
            raise ValueError(f"split = {self.split} is not one of -1 .. {self.n_splits - 1}")
        at_least("round", self.round)
        at_least("seed", self.seed)

    @property
    def competition(self) -> Competition:
        """The profile of the year, with what `task` says instead."""
        known, task = profile(self.year), self.task
        return dataclasses.replace(known, window_s=task.window_s or known.window_s, metric=task.metric or known.metric,
                                   soundscape_s=task.soundscape_s or known.soundscape_s)

    @property
    def example_s(self) -> float:
        """Seconds of a training example: a clip, or as many clips as the model has parts."""
        return self.model.parts * self.frontend.clip_s
