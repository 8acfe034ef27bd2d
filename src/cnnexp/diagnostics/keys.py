"""Every key under which a training writes, in metrics.csv and in TensorBoard.

``<layer>`` is a layer's name in the network, such as ``features.0``; ``<class>`` is a class. Scalars
stand in metrics.csv as well, except those under ``hp/`` and ``margin/``. Pictures and histograms by epoch
are written at most once every hundred steps. The column "From" names the least ``diagnostics=`` that
writes the key; "always" means that every training writes it.

================================  =========  =======  ==================================================
Key                               Kind       From     What it is
================================  =========  =======  ==================================================
train/loss_step                   scalar     always   cross-entropy of a batch
train/loss                        scalar     always   the same of an epoch
train/acc                         scalar     always   share of training images found, of an epoch
train/penalty/<penalty>           scalar     always   what a penalty adds to the loss
train/lr                          scalar     always   learning rate
train/lr/<layer>                  scalar     always   the same, where layers differ
val/loss                          scalar     always   cross-entropy of the validation images
val/acc                           scalar     always   share of these that is found
test/loss                         scalar     always   cross-entropy of the test images, once
test/acc                          scalar     always   share of these that is found
perf/images_per_second            scalar     always   of an epoch's training
perf/train_seconds                scalar     always   of training so far, validations left out
epoch                             scalar     always   of the step
hp/<metric>                       scalar     always   final figure, for the HParams page
grad/norm                         scalar     basic    ‖∂L/∂θ‖ of all parameters, before clipping
grad/<layer>/activation           scalar     basic    ‖∂L/∂a‖, a being what the layer hands on
grad/<layer>/weight               scalar     basic    ‖∂L/∂W‖, before clipping
weight/<layer>/norm               scalar     basic    ‖W‖
weight/<layer>/update             scalar     basic    ‖ΔW‖ of a step
weight/<layer>/update_ratio       scalar     basic    ‖ΔW‖/‖W‖
activation/<layer>/mean           scalar     basic    mean of a
activation/<layer>/std            scalar     basic    standard deviation of a
activation/<layer>/dead           scalar     basic    share of units that give 0 for every image
activation/<layer>/saturated      scalar     basic    share of tanh or sigmoid outputs at their ends
landscape/noise_scale             scalar     full     gradient-noise scale, averaged over measurements
landscape/cosine                  scalar     full     between successive gradients
landscape/sharpness               scalar     full     largest eigenvalue of a batch's Hessian
margin/train/acc/low              scalar     basic    end of the 95 % interval (Wilson, 1927)
margin/train/acc/high             scalar     basic    the other end
margin/val/acc/low                scalar     basic    end of the 95 % interval
margin/val/acc/high               scalar     basic    the other end
health/text_summary               text       basic    verdicts, as they turn
verdict/text_summary              text       basic    whether the training learns and, if not, why
gradient_flow                     image      basic    log₁₀ ‖∂L/∂a‖, layers × time
grad/hardest                      image      full     512 training images' largest ‖∂ℓ/∂θ‖, by epoch
filters/<layer>                   image      always   kernels of the first convolution, by epoch
features/<layer>                  image      basic    feature maps of one validation image, by epoch
test/confusion_matrix             image      always   test images by true and predicted class
test/worst                        image      always   misclassified test images, greatest loss first
histogram/weight/<layer>          histogram  basic    W, by epoch
histogram/grad/<layer>            histogram  basic    ∂L/∂W of an epoch's last batch
histogram/activation/<layer>      histogram  full     outputs for 64 validation images, by epoch
test/pr/<class>                   pr curve   always   precision against recall, a class against the rest
embedding                         embedding  full     what the last linear layer gets, for test images
graph                             graph      full     the network
================================  =========  =======  ==================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def chart_layout(layers: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The layout of TensorBoard's custom scalars: charts with one curve per layer, not one chart per curve.

    Args:
        layers: Names of the layers that are measured.
    """

    def by_layer(pattern: str) -> list[Any]:  # TensorBoard takes the names for regular expressions
        names = (pattern.replace("<layer>", layer) for layer in layers)
        return ["Multiline", [f"^{re.escape(name)}$" for name in names]]

    def margin(name: str) -> list[Any]:
        return ["Margin", [name, f"margin/{name}/low", f"margin/{name}/high"]]

    return {
        "gradient flow": {
            "‖∂L/∂a‖ by layer": by_layer("grad/<layer>/activation"),
            "‖∂L/∂W‖ by layer": by_layer("grad/<layer>/weight"),
        },
        "train and validation": {
            "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
            "train/acc with its 95 % interval": margin("train/acc"),
            "val/acc with its 95 % interval": margin("val/acc"),
        },
        "updates": {
            "‖ΔW‖/‖W‖ by layer": by_layer("weight/<layer>/update_ratio"),
            "‖W‖ by layer": by_layer("weight/<layer>/norm"),
        },
        "activations": {
            "share of dead units by layer": by_layer("activation/<layer>/dead"),
            "standard deviation by layer": by_layer("activation/<layer>/std"),
            "mean by layer": by_layer("activation/<layer>/mean"),
        },
        "loss landscape": {
            "sharpness": ["Multiline", ["^landscape/sharpness$"]],
            "gradient-noise scale": ["Multiline", ["^landscape/noise_scale$"]],
            "cosine of successive gradients": ["Multiline", ["^landscape/cosine$"]],
        },
    }
