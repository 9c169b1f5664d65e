"""Files of ensembles from trained runs: with equal weights, and with fitted ones beside them."""
from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from birdkit.config import Member
from birdkit.effects import Rows
from birdkit.ensembles import EnsembleFile, EnsembleMember, Fit, fit_weights, write_ensemble
from birdkit.metrics import METRICS
from birdkit.metrics.comparison import Validated
from birdkit.settings import from_dict
from birdkit.training.run_files import BEST, PREDICTIONS


@dataclass(frozen=True)
class Making:
    """What an ensemble is made of.

    runs   folders of trained runs
    out    the TOML file to write
    blend  one of birdkit.blending.BLENDS

    Raises ValueError for a run named twice, FileNotFoundError for one without a checkpoint.
    """

    runs: tuple[Path, ...]
    out: Path
    blend: str

    def __post_init__(self) -> None:
        if len({path.resolve() for path in self.runs}) < len(self.runs):
            raise ValueError(f"runs named twice among {', '.join(map(str, self.runs))}")
        missing = [path for path in self.runs if not (path / BEST).is_file()]
        if missing:
            raise FileNotFoundError(f"no {BEST} in {', '.join(map(str, missing))}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the runs: the ends of their paths, as long as tells them apart."""
        for n in range(1, max(len(path.parts) for path in self.runs) + 1):
            names = tuple("/".join(path.parts[-n:]) for path in self.runs)
            if len(set(names)) == len(names):
                break
        return names

    def ensemble(self, weights: Mapping[str, float], after: Mapping[str, tuple[Member, ...]] | None,
                 decision: Member | None = None) -> EnsembleFile:
        """The ensemble with these weights by name; `after` what is done to each member before the blend, None for what
        the first one's checkpoint says, done to what is blended; so with the decision."""
        members = tuple(EnsembleMember(_path_from(path / BEST, self.out.parent), weights[name], name,
                                       postprocess=after[name] if after else ())
                        for name, path in zip(self.names, self.runs, strict=True) if weights[name] > 0)
        return EnsembleFile(members, self.blend, () if after else None, decision)


def write_equal(making: Making) -> str:
    """Write an ensemble in which all runs count alike; returns where."""
    write_ensemble(making.ensemble(dict.fromkeys(making.names, 1.0), None), making.out)
    return f"{making.out}: {len(making.runs)} members with equal weights"


def write_fitted(making: Making) -> str:
    """Write an ensemble with fitted weights and, beside it, named with _equal, its twin; returns what the fit is worth.

    Weights are fitted to what the runs said of their validation, where each is post-processed by itself: so the
    members of these ensembles are, too, before they are blended. Where the metric judges decisions, they are made as
    the first run makes them, here and in both files.

    Raises FileNotFoundError for a run without its predictions, ValueError where runs were not validated on the same
    rows, and as birdkit.ensembles.fit_weights.
    """
    validated = [Validated.read(path / PREDICTIONS) for path in making.runs]
    decision = _decision(validated[0])
    found = fit_weights(Rows.of_validated(validated, making.names), making.blend, decision=decision)
    after = {name: _postprocess(one) for name, one in zip(making.names, validated, strict=True)}
    twin = making.out.with_stem(f"{making.out.stem}_equal")
    said = report(found)
    write_ensemble(making.ensemble(found.weights, after, decision), making.out, comment=said)
    write_ensemble(making.ensemble(dict.fromkeys(making.names, 1.0), after, decision), twin, comment=said)
    return f"{said}\n{making.out}: fitted weights\n{twin}: equal weights"


def report(found: Fit) -> str:
    """A fit in words: weights beside equal ones, scores, and what it is worth."""
    equal = 1 / len(found.weights)
    lines = [f"{found.n_fitted} scalars fitted to {found.n_rows} rows of {found.n_files} soundscapes, {found.metric}, "
             f"blend {found.how}"]
    lines += [f"  {name}: {weight:.3f} beside {equal:.3f}, alone {found.alone[name]:.4f}"
              for name, weight in found.weights.items()]
    verdict = ("surely better than equal weights" if found.is_worth_it else
               "not surely better than equal weights: submit those")
    lines += [f"shrinkage to equal: {found.shrinkage:g}",
              f"equal weights: {found.equal}",
              f"fitted, on the files they were fitted to: {found.fitted}",
              f"fitted less equal, on files they were not fitted to: {found.honest.value:+.4f} "
              f"[{found.honest.low:+.4f}, {found.honest.high:+.4f}]: {verdict}"]
    return "\n".join(lines)


def _postprocess(one: Validated) -> tuple[Member, ...]:
    """What was done to a run's validation."""
    members = one.origin["config"]["inference"]["postprocess"]
    return tuple(from_dict(Member, member) for member in members)


def _decision(one: Validated) -> Member | None:
    """What made decisions of a run's validation, None where its metric judges probabilities."""
    if not METRICS[one.metric].on_decisions:
        return None
    return from_dict(Member, one.origin["config"]["inference"]["decision"])


def _path_from(path: Path, folder: Path) -> str:
    """A path relative to a folder that it lies in, or absolute."""
    inside = path.resolve().is_relative_to(folder.resolve())
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix() if inside else str(path.resolve())
