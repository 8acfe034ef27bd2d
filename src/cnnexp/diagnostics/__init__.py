"""Measurements inside a training, layer by layer, and the verdict on whether it is healthy.

The classes do not need Lightning: :class:`StepProbe` measures one step, :func:`measurement_of`
combines what several ranks measured, :class:`Health` judges.
``cnnexp.training.callbacks.Diagnostics`` calls them during a training.
"""

from cnnexp.diagnostics.health import Health, Verdict
from cnnexp.diagnostics.landscape import gradient_moments, noise_scale, sharpness, undisturbed
from cnnexp.diagnostics.layers import TracedLayer, trace_layers
from cnnexp.diagnostics.losses import StepLosses
from cnnexp.diagnostics.measurement import LayerFigures, Measurement
from cnnexp.diagnostics.probes import StepProbe
from cnnexp.diagnostics.reading import Reading, measurement_of
from cnnexp.diagnostics.rules import RULES
from cnnexp.diagnostics.settings import DiagnosticsSettings
from cnnexp.diagnostics.thresholds import Thresholds

__all__ = [
    "RULES",
    "DiagnosticsSettings",
    "Health",
    "LayerFigures",
    "Measurement",
    "Reading",
    "StepLosses",
    "StepProbe",
    "Thresholds",
    "TracedLayer",
    "Verdict",
    "gradient_moments",
    "measurement_of",
    "noise_scale",
    "sharpness",
    "trace_layers",
    "undisturbed",
]
