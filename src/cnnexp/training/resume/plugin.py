"""How Lightning writes and reads checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from cnnexp.training.resume.files import read_checkpoint, write_checkpoint
from cnnexp.training.resume.point import ResumePoint


class CheckpointFiles(TorchCheckpointIO):
    """Lets Lightning write and read its checkpoints as ``cnnexp.training.resume.files`` does.

    Args:
        run: The run folder, which is not made again where it was deleted.
        point: Where the training resumes: what was read of that file is not read again.
    """

    def __init__(self, run: Path, point: ResumePoint | None = None) -> None:
        super().__init__()
        self._run, self._point = run.absolute(), point

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` as :func:`write_checkpoint` does; the folders above it are made."""
        file = Path(path).absolute()
        if self._run not in file.parents or self._run.is_dir():
            file.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(file, checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content of the file, see :func:`read_checkpoint`; what was read already is given once."""
        point = self._point
        content = point.take_content() if point and point.file == Path(path) else None
        return read_checkpoint(Path(path)) if content is None else content
