"""Measurements inside a training, layer by layer, and the verdict on whether it is healthy.

The classes do not need Lightning: :class:`StepProbe` measures one step, :func:`measurement_of`
combines what several ranks measured, :class:`Health` judges.
``cnnexp.training.callbacks.Diagnostics`` calls them during a training.
"""

from cnnexp.diagnostics.causes import CAUSES, Cause, Finding
from cnnexp.diagnostics.diagnosis import Diagnosis, diagnose
from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.health import Health, Verdict
from cnnexp.diagnostics.landscape import gradient_moments, noise_scale, sharpness, undisturbed
from cnnexp.diagnostics.layers import TracedLayer, trace_layers
from cnnexp.diagnostics.losses import StepLosses
from cnnexp.diagnostics.measurement import LayerFigures, Measurement
from cnnexp.diagnostics.outcome import Outcome, outcome_of
from cnnexp.diagnostics.predictions import Predictions
from cnnexp.diagnostics.probes import StepProbe
from cnnexp.diagnostics.reading import Reading, measurement_of
from cnnexp.diagnostics.rules import RULES
from cnnexp.diagnostics.settings import DiagnosticsSettings
from cnnexp.diagnostics.thresholds import Thresholds

__all__ = [
    "CAUSES",
    "RULES",
    "Cause",
    "Diagnosis",
    "DiagnosticsSettings",
    "Evidence",
    "Finding",
    "Health",
    "LayerFigures",
    "Measurement",
    "Outcome",
    "Predictions",
    "Reading",
    "StepLosses",
    "StepProbe",
    "Thresholds",
    "TracedLayer",
    "Verdict",
    "diagnose",
    "gradient_moments",
    "measurement_of",
    "noise_scale",
    "outcome_of",
    "sharpness",
    "trace_layers",
    "undisturbed",
]
