"""The run folder: the one place that knows its files, reads and writes them."""

from cnnexp.runs.files import RunFolderError
from cnnexp.runs.folder import RunFolder, State, claim_run_folder
from cnnexp.runs.identity import config_hash
from cnnexp.runs.lock import FolderInUseError, folder_lock
from cnnexp.runs.metrics import METRIC_COLUMNS
from cnnexp.runs.observed import ObservedRunFolder
from cnnexp.runs.provenance import collect_provenance, git_state
from cnnexp.runs.rank import ProcessRank, process_rank
from cnnexp.runs.spent import SpentSteps

__all__ = [
    "METRIC_COLUMNS",
    "FolderInUseError",
    "ObservedRunFolder",
    "ProcessRank",
    "RunFolder",
    "RunFolderError",
    "SpentSteps",
    "State",
    "claim_run_folder",
    "collect_provenance",
    "config_hash",
    "folder_lock",
    "git_state",
    "process_rank",
]
