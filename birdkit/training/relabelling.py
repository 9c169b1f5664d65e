"""Labels that a model under training gives to the soundscapes it goes on with: PseudoConfig.relabel_every.

The second seed tried it, in 2025, and gave it up: a model that learns from itself grows sure of its mistakes. So it is
off unless asked for, and its labels pass every guard that a round's do.
"""
from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from birdkit import checkpoint, pseudolabel
from birdkit.config import PEOPLE
from birdkit.data.tables import contents_of
from birdkit.training.material import Material
from birdkit.training.run_files import RunFiles
from birdkit.training.trainer import Trainer

log = logging.getLogger(__name__)

TEACHER = "relabelling.safetensors"
TABLE = "relabelled_epoch{:04d}.parquet"


class Relabelling:
    """When a run labels anew, and what it then learns from. Without `relabel_every`, and in round 0, never.

    Each table stays in the folder of the run, so a run that was killed goes on with the labels it had.
    """

    def __init__(self, material: Material, trainer: Trainer, files: RunFiles, root: Path | str) -> None:
        self.given, self.trainer, self.files, self.root = material, trainer, files, root
        config = material.config
        self.every = config.pseudo.relabel_every if config.round > 0 else 0
        if config.pseudo.relabel_every and not self.every:
            log.warning("pseudo.relabel_every = %d does nothing in round 0: there are no pseudo-labels to renew",
                        config.pseudo.relabel_every)

    def next_step(self) -> int:
        """The step after which labels are due again; 0 where that is not before the end."""
        if not self.every:
            return 0
        every = self.every * self.trainer.per_epoch
        step = (self.trainer.step // every + 1) * every
        return step if step < self.trainer.total_steps else 0

    def material(self, *, progress: bool) -> Material:
        """What the next steps learn from; labels first, in the first process, where that is due.

        Raises birdkit.pseudolabel.PseudoLabelError where the labels cannot be right, FileNotFoundError where those that
        the run was going on with are gone.
        """
        epoch = 0 if not self.every else self.trainer.step // self.trainer.per_epoch // self.every * self.every
        if not epoch:
            return self.given
        path = self.files.folder / TABLE.format(epoch)
        if self.trainer.world.first and not path.is_file():
            if self.trainer.step != epoch * self.trainer.per_epoch:
                raise FileNotFoundError(f"{path}, of which this run was learning at step {self.trainer.step}, is gone")
            self._label(path, progress=progress)
        self.trainer.world.agree(False)  # the others wait here
        config = self.given.config
        labels = pseudolabel.read_for_training(path, classes=self.given.classes, expected_round=config.round + 1,
                                               config=config.labelling)
        return replace(self.given, pseudo_labels=labels)

    def _label(self, path: Path, *, progress: bool) -> None:
        """Label the soundscapes with the model as it would be deployed now.

        It has learnt from pseudo-labels of these soundscapes already; nothing that people labelled is labelled anew.
        """
        given, config = self.given, self.given.config
        soundscapes = given.soundscapes
        assert soundscapes is not None  # from round 1 on there are pseudo-labels, and so soundscapes
        teacher, files = path.with_name(TEACHER), soundscapes["file"].tolist()
        checkpoint.save(teacher, self.trainer.deployed.eval(), config=config, classes=given.classes,
                        table_hash=given.table_hash, seen=given.seen, seen_content=given.seen_content,
                        pseudo=given.pseudo)
        pseudolabel.label_files(files, [teacher], path=path, round=config.round + 1, root=self.root,
                                config=replace(config.labelling, out_of_fold=PEOPLE), classes=given.classes,
                                contents=contents_of(files, soundscapes), window_s=config.competition.window_s,
                                progress=progress)
        teacher.unlink()
        log.info("epoch %d: the model has labelled the soundscapes itself", self.trainer.step // self.trainer.per_epoch)
