"""What training makes of the teachers' probabilities: which windows it uses, with which labels, and how often."""
from __future__ import annotations

from dataclasses import dataclass, field

from birdkit.config.base import above_zero, in_unit, one_of


@dataclass(frozen=True)
class PseudoConfig:
    """Pseudo-labelled windows, from round 1 on. The settings apply in the order in which they stand here.

    Which windows:
    least_peak      a window is used where its largest probability reaches this; 0 uses all. .5: BirdCLEF 2025 second
                    place, with a `floor` of .1

    Which probabilities are labels; below the highest of these lines a class's probability becomes 0:
    threshold       of every class; 0 for none. .5: second seed, 2025
    thresholds      of single classes instead of that, such as the second seed's {"compot1": .7, "52884": .7,
                    "pavpig2": .6, "65448": .65}: common classes that its teacher claimed too often
    quantile        of each class's probabilities over the windows used; 0 for none. .9, the top 10 % of every class:
                    BirdCLEF 2025 ninth place (+.02)
    most_per_class  the line is the k-th largest probability of the class, but not below `most_floor`; 0 for none.
                    Second seed: 500 with a floor of .6, 100 with .5, 800 in experiment 167
    most_floor      see there

    What a label becomes:
    hard            None for soft labels, or the teachers' probability from which a label becomes 1, and below which it
                    becomes 0, whatever `power` and `floor` are. .5: second seed
    power           probabilities are raised to this. Above 1 it lowers the unsure ones, below 1 it lifts them. BirdCLEF
                    2025 first place: 1, 1 / .65, 1 / .55 and 1 / .6 in rounds 1 to 4; 2026 second place: 1.55
    floor           what is then below this becomes 0. .1: 2025 second place; .05: 2026 sixth place

    Which of those windows again:
    keep_empty      False leaves out windows without a label above 0, as the second seed; True keeps them as what the
                    place sounds like when nothing calls
    least_per_class  windows are chosen class by class, the class with the fewest first, of each its surest until that
                    many chosen windows hold it; 0 chooses all of them. The second seed's 2025 code has a selection
                    sorted by rarity in comments
    most_windows    the choice ends at this many windows; 0 for no limit

    Which labels count in the loss:
    unsure_from     a class whose probability in a clip is above this and below `unsure_to` is left out of that clip's
    unsure_to       loss: nobody knows. .1 and .6, with hard = .6: the second seed's in-training labels. Equal for none

    What a clip's label becomes, which is the largest of the windows it holds:
    target          times this: with DataConfig.recording_target, the labels by source
    label_sum       where a clip's labels then sum to more, they are scaled down to this; 0 for no cap. .75: BirdCLEF
                    2026 first place, without which pseudo-labels harmed its pretrained models
    weight          what a pseudo-labelled window counts in the loss, above 0, beside 1 of a recording: all of it where
                    it takes an example's place, else as far as `weight_share` of what mixes it in says

    In training:
    relabel_every   epochs after which the model labels the soundscapes itself and goes on with those labels, through
                    the same guards as a round's; 0 for never, as in round 0. The second seed tried it and gave it up

    How often:
    sampler         which windows are mixed in: "uniform", or "sum", files in proportion to the sum over classes of the
                    largest label in them, as the settings above have made it; the 2025 first place wrote of the largest
                    probability, which is the same where none of them changes it, as in its first round
    """

    least_peak: float = 0.0
    threshold: float = 0.0
    thresholds: dict[str, float] = field(default_factory=dict)
    quantile: float = 0.0
    most_per_class: int = 0
    most_floor: float = 0.5
    hard: float | None = None
    power: float = 1.0
    floor: float = 0.1
    keep_empty: bool = True
    least_per_class: int = 0
    most_windows: int = 0
    unsure_from: float = 0.0
    unsure_to: float = 0.0
    target: float = 1.0
    label_sum: float = 0.0
    weight: float = 1.0
    sampler: str = "uniform"
    relabel_every: int = 0

    def __post_init__(self) -> None:
        one_of("pseudo.sampler", self.sampler, ("uniform", "sum"))
        for name in ("least_peak", "threshold", "quantile", "most_floor", "floor", "target", "unsure_from",
                     "unsure_to"):
            in_unit(f"pseudo.{name}", getattr(self, name))
        for name, value in self.thresholds.items():
            in_unit(f"pseudo.thresholds of {name}", value)
        above_zero("pseudo.weight", self.weight)
        if self.hard is not None:
            in_unit("pseudo.hard", self.hard)
        if self.unsure_from > self.unsure_to:
            raise ValueError(f"pseudo.unsure_from = {self.unsure_from} is above unsure_to = {self.unsure_to}")
        if self.power <= 0:
            raise ValueError(f"pseudo.power = {self.power} must be above 0: at 0 every probability would be 1")
        for name in ("most_per_class", "least_per_class", "most_windows", "label_sum", "relabel_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"pseudo.{name} = {getattr(self, name)} must be >= 0")
