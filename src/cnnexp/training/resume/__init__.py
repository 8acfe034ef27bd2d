"""Resume a training exactly: its position, its checkpoint files, who writes them, the random numbers."""

from cnnexp.training.resume.callback import Checkpoints
from cnnexp.training.resume.files import (
    CheckpointError,
    read_checkpoint,
    read_own_checkpoint,
    write_checkpoint,
)
from cnnexp.training.resume.plugin import CheckpointFiles
from cnnexp.training.resume.point import ResumePoint, go_back, newest_checkpoint
from cnnexp.training.resume.position import Position

__all__ = [
    "CheckpointError",
    "CheckpointFiles",
    "Checkpoints",
    "Position",
    "ResumePoint",
    "go_back",
    "newest_checkpoint",
    "read_checkpoint",
    "read_own_checkpoint",
    "write_checkpoint",
]
