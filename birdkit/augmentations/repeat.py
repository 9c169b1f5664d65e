"""Members made from other members or from a config: several times, for part of a run, one of several, or in a list."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation, build_member, examples, with_examples
from birdkit.augmentations.drawing import check_counts, check_range
from birdkit.batch import Batch
from birdkit.config import Member


@AUGMENTATIONS.register("repeat")
class Repeat(Augmentation):
    """A member applied as often as a count says that is drawn: SUMIX 0, 1, 1 or 2 times (second seed).

    counts    drawn from alike, so [0, 1, 1, 2] means 25, 50 and 25 %
    per       "batch": one count for all examples of a step, as the second seed has it. "example": one for each.
              Batches are alike then, and scores were higher (README, "What the second seed asks")
    member    {"name": "sumix", "options": {...}}
    by_count  options that differ where the count is that, with the count as a string: {"2": {"min_gain": 0.5}} is the
              second seed's
    """

    def __init__(self, p: float = 1.0, counts: Sequence[int] = (0, 1, 1, 2), *, per: str = "batch",
                 member: dict[str, Any], by_count: dict[str, dict[str, Any]] | None = None) -> None:
        super().__init__(p)
        check_counts(counts)
        if per not in ("batch", "example"):
            raise ValueError(f"per = {per!r}; it must be one of batch, example")
        strange = sorted(set(by_count or {}) - {str(count) for count in counts})
        if strange:
            raise ValueError(f"by_count has {', '.join(strange)}, which counts = {counts} never give")
        self.counts, self.per = list(counts), per
        changed = {count: str(count) for count in self.counts if str(count) in (by_count or {})}
        self.names = {count: changed.get(count, "any") for count in self.counts}  # of the members by count
        self.members = nn.ModuleDict({name: build_member(member, more=(by_count or {}).get(name))
                                      for name in sorted(set(self.names.values()))})
        self.stages = self.member_of(self.counts[0]).stages
        self.mixes = self.member_of(self.counts[0]).mixes

    @property
    def source_shares(self) -> dict[str, float]:
        """All: a clip that is there for two times or none would tie the times to each other."""
        return dict.fromkeys(self.sources, 1.0)

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """count (B,); times, by the name of a member what it draws for the first time, the second and so on."""
        chosen = torch.randint(len(self.counts), (1 if self.per == "batch" else len(batch),), generator=generator)
        count = torch.tensor(self.counts)[chosen].expand(len(batch))
        most = {self.names[n]: n for n in count.unique().tolist()}  # ascending: the largest of each name stays
        return {"count": count, "times": {name: [self._named(name).draw(batch, generator) for _ in range(n)]
                                          for name, n in most.items()}}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The batch after every time, each in the examples that have it."""
        for name, times in drawn["times"].items():
            theirs = torch.tensor([count for count, own in self.names.items() if own == name])
            for number, time in enumerate(times):
                wanted = (drawn["count"] > number) & torch.isin(drawn["count"], theirs)
                batch = self._named(name).apply(batch, **{**time, "applied": time["applied"] & wanted})
        return batch

    def member_of(self, count: int) -> Augmentation:
        """What is applied so often where the count is that."""
        return self._named(self.names[count])

    def _named(self, name: str) -> Augmentation:
        return cast(Augmentation, self.members[name])


@AUGMENTATIONS.register("during")
class During(Augmentation):
    """A member applied during a part of the run alone, such as SpecAugment in the first third (second seed, 2025).

    Mixing that ends before the run does lets the model finish on sounds as they are. What the member draws does not
    depend on the progress, nor do its needs: a missing source is an error from the first step.

    member      {"name": "time_mask", "options": {...}}
    start, end  shares of the run, applied while start <= progress < end; 0 and 1 are all of it
    """

    def __init__(self, p: float = 1.0, start: float = 0.0, *, end: float = 1.0, member: dict[str, Any]) -> None:
        super().__init__(p)
        check_range("start and end", start, end, least=0.0, most=1.0)
        self.start, self.end = start, end
        self.member = build_member(member)
        self.stages, self.mixes = self.member.stages, self.member.mixes

    def chosen(self, batch: Batch, generator: Generator) -> Tensor:
        """Which examples are changed (B,): none outside the part."""
        return super().chosen(batch, generator) & (self.start <= batch.progress < self.end)

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """inner: what the member draws."""
        return {"inner": self.member.draw(batch, generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The batch, changed by the member."""
        return self.member.apply(batch, **drawn["inner"])


@AUGMENTATIONS.register("one_of")
class OneOf(Augmentation):
    """One of several members for each example, or none: no example gets two.

    BirdCLEF 2026 first place, from its first round on: pseudo-labelled soundscapes are mixed into a share of .75 of the
    examples, labelled ones into .1875, never both into one.

    members  [{"name": "soundscape_mix", "options": {...}, "share": 0.75}, ...]: the share of the examples that get the
             member, whose own `p` thins them further. What the shares, of 1 at most, leave over stays as it is

    Every member sees the batch as it came in, so that an example mixed with its neighbour does not get what another
    member did to that one.
    """

    def __init__(self, p: float = 1.0, *, members: Sequence[dict[str, Any]]) -> None:
        super().__init__(p)
        built = [build_member(member, also=("share",)) for member in members]
        unshared = [member["name"] for member in members if "share" not in member]
        if unshared:
            raise ValueError(f"members of one_of must be given a share each; {', '.join(unshared)} has none")
        self.shares = [float(member["share"]) for member in members]
        if not self.shares or min(self.shares) < 0 or sum(self.shares) > 1 + 1e-9:
            raise ValueError(f"shares = {self.shares} of one_of: each must be at least 0, and their sum at most 1; it "
                             f"is {sum(self.shares):g}")
        self.members = nn.ModuleList(built)
        self.mixes = any(member.mixes for member in built)
        self.stages = tuple(stage for stage in built[0].stages if all(stage in one.stages for one in built))
        if not self.stages:
            raise ValueError(f"the members of one_of must share a stage, which {[one['name'] for one in members]} do "
                             f"not: {[list(one.stages) for one in built]}")

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """place (B,), uniform, which of the shares it falls into decides; each: what every member draws."""
        return {"place": torch.rand(len(batch), generator=generator),
                "each": [self._member(k).draw(batch, generator) for k in range(len(self.shares))]}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The batch, each example changed by its member."""
        result, begin = batch, 0.0
        for k, (share, inner) in enumerate(zip(self.shares, drawn["each"], strict=True)):
            chosen = (drawn["place"] >= begin) & (drawn["place"] < begin + share) & inner["applied"]
            begin += share
            if bool(chosen.any()):
                rows = chosen.nonzero()[:, 0].to(batch.signal.device)
                changed = self._member(k).apply(batch, **{**inner, "applied": chosen})
                result = with_examples(result, rows, examples(changed, rows))
        return result

    def _member(self, k: int) -> Augmentation:
        return cast(Augmentation, self.members[k])


def build_augmentations(members: Sequence[Member], stage: str = "") -> list[Augmentation]:
    """The augmentations that a config lists, in order.

    stage  "wave" or "spectrogram": a member that does not belong there raises ValueError. Not checked if empty

    >>> [type(member).__name__ for member in build_augmentations([Member("sumix"), Member("noise", {"p": 0.5})])]
    ['Sumix', 'Noise']
    >>> build_augmentations([Member("time_mask")], "wave")
    Traceback (most recent call last):
    ValueError: augmentation 'time_mask' belongs to the stage spectrogram, not wave
    """
    built = []
    for member in members:
        augmentation = AUGMENTATIONS.build(member.name, **member.options)
        if stage and stage not in augmentation.stages:
            raise ValueError(f"augmentation {member.name!r} belongs to the stage {' or '.join(augmentation.stages)}, "
                             f"not {stage}")
        built.append(augmentation)
    return built
