"""What a recipe is."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from birdkit.config import Member, RunConfig
from birdkit.settings import replace, with_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """A named run config, and what a whole run of it trains.

    config   of round 0
    splits   the splits that are trained, each one a member of the ensemble
    rounds   of pseudo-labelling after round 0
    earlier  rounds before the last whose checkpoints join the ensemble
    members  changes that make the models of the splits unlike each other, taken in turn: split 0 the first, and so on
    later    changes to the config from round 1 on
    by_round changes of single rounds besides: the first for round 1, and so on, the last for all rounds after it, too.
             All changes are as for birdkit.settings.replace
    unread   settings that the models of members, by their number, have none of, such as stochastic depth: a person's
             change of the whole recipe passes these models by
    calls    whether its models are call detectors, which learn from birdkit.runs.call_detector.call_table and round 0
             alone
    """

    config: RunConfig
    splits: tuple[int, ...] = (0,)
    rounds: int = 1
    earlier: int = 0
    members: tuple[Mapping[str, Any], ...] = ({},)
    later: Mapping[str, Any] = field(default_factory=dict)
    by_round: tuple[Mapping[str, Any], ...] = ()
    unread: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    calls: bool = False

    def run(self, round: int, split: int, *, seed: int = 0) -> RunConfig:
        """The config of one run of notebook 03, before birdkit.recipes.for_competition.

        seed  0 for the recipe's own; every other number gives other draws of everything, in all rounds and splits

        >>> recipe = Recipe(RunConfig(), by_round=({"pseudo__power": 1.0}, {"pseudo__power": 1.5}))
        >>> [recipe.run(round, 0).pseudo.power for round in (1, 2, 3)]
        [1.0, 1.5, 1.5]
        >>> recipe.run(1, 2).seed, recipe.run(1, 2, seed=1).seed
        (102, 1102)
        """
        config = replace(self.config, **self.members[max(split, 0) % len(self.members)])
        if round > 0:
            config = replace(config, **self.later)
            config = replace(config, **self.by_round[min(round, len(self.by_round)) - 1] if self.by_round else {})
        # Splits are members of one ensemble: another seed makes them differ in more than their recordings.
        own = self.config.seed + 1000 * seed + 100 * round + max(split, 0)
        return replace(config, round=round, split=split, seed=own)

    def changed(self, round: int, split: int, changes: Mapping[str, Any]) -> RunConfig:
        """The config of one run with a person's changes, as for birdkit.settings.with_settings, whose errors it raises.

        What the model of this split has none of is left out, and that is logged.

        >>> recipe = Recipe(RunConfig(), splits=(0, 1), members=({}, {}), unread={1: ("model__drop_path",)})
        >>> [recipe.changed(1, split, {"model__drop_path": 0.15}).model.drop_path for split in (0, 1)]
        [0.15, 0.0]
        """
        config, unread = self.run(round, split), self.unread.get(max(split, 0) % len(self.members), ())
        passed = [name for name in unread if name in changes]
        if passed:
            log.info("split %d: the model %s has no %s, which stays as it is", split, config.model.name,
                     ", ".join(passed))
        return with_settings(config, {name: value for name, value in changes.items() if name not in passed})


def member(name: str, **options: Any) -> Member:
    """A registry member with its options.

    >>> member("gain", max_db=6.0)
    Member(name='gain', options={'max_db': 6.0})
    """
    return Member(name, options)
