"""What a model learns from, and how."""
from __future__ import annotations

from dataclasses import dataclass, field

from birdkit.config.base import Member, above_zero, at_least, in_unit, one_of

SOUNDSCAPES = "soundscapes"  # the source of clips that every run has
LABELLED, PSEUDO, UNLABELLED = "labelled_soundscapes", "pseudo_labels", "unlabelled"  # kinds of sources
WINDOW_KINDS = (LABELLED, PSEUDO)
SOURCE_KINDS = ("folder", "recordings", UNLABELLED, *WINDOW_KINDS)


@dataclass(frozen=True)
class SourceConfig:
    """Further clips that augmentations may mix into a training example, by the name under which they ask for them.

    The source "soundscapes" is always there: unlabelled soundscapes in round 0, pseudo-labelled windows after.

    name            what an augmentation's `source` says
    kind            "folder": every audio file below `path`, without animals, such as ff1010bird's nocall recordings.
                    "recordings": recordings of `classes` (the second loader of selective mixup), with their labels and
                    weights. "unlabelled": soundscapes without labels in every round, as "soundscapes" are in round 0,
                    see DataConfig.unlabelled. "labelled_soundscapes": the windows that the host labelled.
                    "pseudo_labels": from round 1 on, pseudo-labelled windows once more, to be drawn by other rules than
                    "soundscapes". Never those of the validating split
    path            of a folder
    classes         of recordings, by primary or secondary label; empty for all, ("scored",) for the competition's
                    scored classes, which birdkit.recipes.for_competition fills in
    most_per_class  recordings of a class to use at most, a random choice; 0 for all
    match           of windows: each example gets one in which its own class is heard, its label there at least this
                    (before PseudoConfig.target and any cap); an example whose class is in no window gets silence of
                    weight 0, which `substitute` leaves alone. 0 for any window. BirdCLEF 2025 second place: windows
                    above .5
    label_sum       of labelled soundscapes: labels of a clip that sum to more are scaled down to this; 0 for no cap.
                    .5: BirdCLEF 2026 first place. Pseudo-labels have PseudoConfig.label_sum
    weight          what an example of this source counts in the loss, above 0, times what it counts as it is (a
                    recording by DataConfig, a pseudo-labelled window PseudoConfig.weight). Where augmentations mix it
                    in, as far as their `weight_share` says; in an example's place, in full
    """

    name: str
    kind: str = "folder"
    path: str = ""
    classes: tuple[str, ...] = ()
    most_per_class: int = 0
    match: float = 0.0
    label_sum: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        one_of("source.kind", self.kind, SOURCE_KINDS)
        if not self.name or self.name == SOUNDSCAPES:
            raise ValueError(f"a source needs a name of its own, not {self.name!r}")
        if (self.kind == "folder") != bool(self.path):
            raise ValueError(f"source {self.name!r} is of kind {self.kind!r} and has the path {self.path!r}; "
                             f"a folder needs one, {' and '.join(SOURCE_KINDS[1:])} take none")
        in_unit(f"source {self.name!r}: match", self.match)
        above_zero(f"source {self.name!r}: weight", self.weight)
        for setting, kinds in (("classes", ("recordings",)), ("most_per_class", ("recordings",)),
                               ("match", WINDOW_KINDS), ("label_sum", (LABELLED,))):
            value = getattr(self, setting)
            if value and self.kind not in kinds:
                raise ValueError(f"source {self.name!r}: {setting} = {value} is for sources of kind "
                                 f"{' or '.join(kinds)}, not {self.kind}")
        for setting in ("most_per_class", "label_sum"):
            if getattr(self, setting) < 0:
                raise ValueError(f"source {self.name!r}: {setting} = {getattr(self, setting)} must be >= 0")


@dataclass(frozen=True)
class DataConfig:
    """What a training example is.

    crop               where a clip is taken from a longer recording: "random", "first", "last", "rms" (random,
                       weighted by the energy of the clip, for which each worker decodes a recording whole once, in
                       every session) or "marked" (centred on the column centre_s of the recordings table, which
                       people marked by hand; random where it is empty)
    short              what becomes of a recording shorter than the clip: "repeat" (cyclic, from a random phase),
                       "place" (at a random place between zeros), "start" (zeros after it, as the first seed)
    secondary          "label" gives secondary labels `secondary_target`; "mask" leaves them out of the loss (BirdCLEF
                       2024 third place)
    secondary_target   target of a secondary label, in [0, 1]
    min_rating         recordings rated lower are left out; those that nobody rated stay
    rating_weights     True weighs a rated recording by clip(rating / 5, 0.1, 1)
    unrated_weight     weight of a recording with rating 0, which on Xeno-canto means that nobody rated it
    collection_weights  weight by the collection a recording is from, such as {"iNat": 0.5}; 1 for those not named
    label_smoothing    added to every target, then clipped to 1 (2021 second place)
    recording_target   targets of recordings are multiplied by this, with or without a background: 0.8 is the second
                       seed's accident. Pseudo-labels have PseudoConfig.target
    balance            sampling weight of a recording is (recordings of its class) ** -balance
    least_per_class    recordings of smaller classes are repeated up to this many before sampling
    most_per_class     of larger classes a random choice of this many is used, 0 for all
    samples_per_epoch  examples in an epoch, 0 for as many as there are recordings
    labelled_soundscapes  True has the windows that the host labelled (2026) among the training examples, without which
                       classes that are heard only there cannot be learnt; a window counts for the rarest of its classes
                       in `balance`. BirdCLEF 2026 first place: two in each batch of 64
    labelled_weight    what such an example counts in the loss, above 0; a recording that was rated 5 counts 1
    sources            further clips to mix in
    unlabelled         what is heard of soundscapes that are mixed in without labels. "quiet": without what stands
                       out of their noise (birdkit.data.quiet), for whatever calls in them is not among the labels.
                       "as_they_are": for soundscapes in which nothing calls, such as the seeds' "nocall" ones
    cache_gib          memory in which decoded audio is kept between epochs, per worker; 0 decodes every clip afresh
    """

    crop: str = "random"
    short: str = "repeat"
    secondary: str = "label"
    secondary_target: float = 0.5
    min_rating: float = 0.0
    rating_weights: bool = False
    unrated_weight: float = 1.0
    collection_weights: dict[str, float] = field(default_factory=dict)
    label_smoothing: float = 0.0
    recording_target: float = 1.0
    balance: float = 0.5
    least_per_class: int = 0
    most_per_class: int = 0
    samples_per_epoch: int = 0
    labelled_soundscapes: bool = True
    labelled_weight: float = 1.0
    sources: tuple[SourceConfig, ...] = ()
    unlabelled: str = "quiet"
    cache_gib: float = 0.0

    def __post_init__(self) -> None:
        one_of("crop", self.crop, ("random", "first", "last", "rms", "marked"))
        one_of("short", self.short, ("repeat", "place", "start"))
        one_of("secondary", self.secondary, ("label", "mask"))
        one_of("unlabelled", self.unlabelled, ("quiet", "as_they_are"))
        for name in ("secondary_target", "label_smoothing", "recording_target"):
            in_unit(name, getattr(self, name))
        for name in ("min_rating", "unrated_weight", "balance", "least_per_class", "most_per_class"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be >= 0")
        at_least("data.samples_per_epoch", self.samples_per_epoch)
        at_least("data.cache_gib", self.cache_gib)
        negative = [name for name, weight in self.collection_weights.items() if weight < 0]
        if negative:
            raise ValueError(f"collection_weights of {', '.join(negative)} must be >= 0")
        if self.most_per_class and self.least_per_class > self.most_per_class:
            raise ValueError(f"least_per_class = {self.least_per_class} is above most_per_class = "
                             f"{self.most_per_class}")
        above_zero("labelled_weight", self.labelled_weight)
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources need names of their own, not {', '.join(names)}")


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training batch: `wave` members in order before the front end, `spectrogram` members after."""

    wave: tuple[Member, ...] = ()
    spectrogram: tuple[Member, ...] = ()


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser, its schedule, and when it stops.

    batch_size      examples in a step, of all processes together
    optimiser       "adamw", "adam" or "radam"
    weight_decay    not of norms and biases. With "adamw" and "radam" weights shrink by lr * weight_decay in a step;
                    with "adam" it is part of the gradient (L2), which hardly shrinks weights of large gradients
    schedule        "cosine": half a cosine from `peak_lr` to `final_lr` at the last step. "restarts": one in every
                    `restart_epochs`, each `restart_decay` times the one before (second seed: 8 and 0.5). Both after
                    `warmup_epochs` of a linear rise from `warmup_start` times the peak
    clip_grad_norm  largest norm of the gradient, 0 for no limit
    ema_decay       of the exponential average of the weights that validates and is saved; 0 for none
    swa_start       share of the run after which the weights of every epoch's end are averaged alike (stochastic weight
                    averaging, Izmailov et al. 2018, arXiv:1803.05407); 1 for never
    average         after the last epoch, the weights of that many validated epochs of this run are averaged, and the
                    average is validated too; 0 for none. At most `validations`
    average_of      which epochs: "best", those with the highest scores, or "last"
    precision       "auto" takes what the device does in hardware: "bf16", else "fp16" on a GPU, but "f32" for NFNets,
                    and "f32" on a CPU
    compile         True compiles the network with torch.compile: slow to start, faster afterwards on a GPU
    validate_every  epochs, 0 only at the end
    save_every_s    seconds between saved states, from which a run that died goes on
    session_s       seconds after which the run saves its state and stops, to be started again; 0 for no limit. Kaggle
                    ends a session after 12 hours
    workers         processes that decode
    threads         of the CPU that torch may use, 0 for all
    """

    epochs: int = 30
    batch_size: int = 32
    optimiser: str = "adamw"
    peak_lr: float = 1e-3
    final_lr: float = 1e-6
    weight_decay: float = 1e-2
    warmup_epochs: float = 1.0
    warmup_start: float = 0.0
    schedule: str = "cosine"
    restart_epochs: float = 8.0
    restart_decay: float = 0.5
    clip_grad_norm: float = 1.0
    ema_decay: float = 0.0
    swa_start: float = 1.0
    average: int = 0
    average_of: str = "best"
    precision: str = "auto"
    compile: bool = False
    validate_every: int = 1
    save_every_s: float = 600.0
    session_s: float = 0.0
    workers: int = 2
    threads: int = 0

    def __post_init__(self) -> None:
        one_of("precision", self.precision, ("auto", "f32", "bf16", "fp16"))
        one_of("optimiser", self.optimiser, ("adamw", "adam", "radam"))
        one_of("schedule", self.schedule, ("cosine", "restarts"))
        one_of("average_of", self.average_of, ("best", "last"))
        in_unit("swa_start", self.swa_start)
        in_unit("warmup_start", self.warmup_start)
        for name, least in (("epochs", 1), ("batch_size", 1), *((name, 0) for name in (
                "weight_decay", "warmup_epochs", "clip_grad_norm", "average", "validate_every", "save_every_s",
                "session_s", "workers", "threads"))):
            at_least(f"train.{name}", getattr(self, name), least)
        if not 0 <= self.final_lr <= self.peak_lr or not self.peak_lr > 0:
            raise ValueError(f"train.peak_lr = {self.peak_lr}, final_lr = {self.final_lr}: the peak must be above 0, "
                             "the final rate in [0, peak_lr]")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay = {self.ema_decay} is not in [0, 1): at 1 nothing would be learnt")
        if self.ema_decay and self.swa_start < 1:
            raise ValueError(f"ema_decay = {self.ema_decay} and swa_start = {self.swa_start} are two ways to average "
                             "the weights: choose one")
        if not self.restart_epochs > 0 or not 0 < self.restart_decay <= 1:
            raise ValueError(f"train.restart_epochs = {self.restart_epochs} must be above 0, and restart_decay = "
                             f"{self.restart_decay} in (0, 1]")
        if self.average > self.validations:
            raise ValueError(f"train.average = {self.average} epochs, but with validate_every = {self.validate_every} "
                             f"only {self.validations} of {self.epochs} are validated, and only those can be averaged")

    @property
    def validations(self) -> int:
        """How many epochs are validated: every `validate_every`-th, and the last.

        >>> TrainConfig(epochs=10, validate_every=4).validations, TrainConfig(epochs=10, validate_every=0).validations
        (3, 1)
        """
        return -(-self.epochs // self.validate_every) if self.validate_every else 1
