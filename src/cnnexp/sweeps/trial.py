"""A job that is a trial of a search reports to the study, and ends when it falls behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from cnnexp.runs import RunFolder
from cnnexp.runs.files import read_json
from cnnexp.sweeps.search import STUDY, make_pruner, storage_in
from cnnexp.training import Ranks, TrainingPruned
from cnnexp.training.epochs import epoch_of

if TYPE_CHECKING:
    import optuna


def report_of(folder: RunFolder, ranks: Ranks) -> list[Callback]:
    """The callback by which the job in ``folder`` reports, if it is a trial that may be pruned; else none."""
    about = ranks.from_first(read_json(folder.trial) if ranks.first else None)
    if not about or about.get("pruner") is None:
        return []
    return [Report(about, ranks)]


class Report(Callback):
    """Report the objective to the study after each epoch, and end the training if the study says so.

    Args:
        about: The content of trial.json.
        ranks: The ranks of the training; the first one reports.

    Raises:
        TrainingPruned: In the hook, if the trial falls behind.
    """

    def __init__(self, about: dict[str, Any], ranks: Ranks) -> None:
        self._about, self._ranks = about, ranks
        self._trial: optuna.trial.Trial | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the objective, after the epoch's validation."""
        key, epoch = self._about["objective"], epoch_of(trainer)
        value = float(trainer.callback_metrics.get(key, math.nan))
        behind = self._report(value, epoch) if self._ranks.first else False
        if self._ranks.from_first(behind):
            raise TrainingPruned(f"pruned after epoch {epoch}: {key} {value:.4g} falls behind")

    def _report(self, value: float, epoch: int) -> bool:
        trial = self._trial = self._trial or self._open()
        reported = trial.study.trials[trial.number].intermediate_values
        if epoch not in reported:  # an earlier attempt of this run may have reported it
            trial.report(value, epoch)
        return trial.should_prune()

    def _open(self) -> optuna.trial.Trial:
        import optuna

        storage = storage_in(Path(self._about["sweep"]))
        pruner = make_pruner(self._about["pruner"])
        study = optuna.load_study(study_name=STUDY, storage=storage, pruner=pruner)
        among = storage.get_study_id_from_name(STUDY)
        trial = storage.get_trial_id_from_study_id_trial_number(among, self._about["number"])
        return optuna.trial.Trial(study, trial)
