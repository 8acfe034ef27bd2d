"""Failing trainings of known causes.

Those with an even place among the cases of their kind were looked at while thresholds were set; the others
were held out.
"""

from __future__ import annotations

from verdict_parts.altering import (
    Alter,
    Case,
    always_dropping,
    as_pixels,
    constant,
    cut,
    equal_weights,
    first_layer_only,
    from_one,
    labels_to,
    negative_biases,
    noisy,
    of_some,
    repeated,
    scaled,
    shuffled,
    softmax,
    sorted_by_label,
    truncated,
    with_images,
    with_network,
)

_Row = tuple[str, tuple[str, ...], Alter | None]
_LENET, _TANH, _TINY = "model=lenet5", "model=tanh_cnn", "model=tiny"
_SGD, _SLOW = "optimizer=sgd", "optimizer.lr=0.01"
_DEEP = ("model.channels=[8]", "model.pool_size=1", "data.train_size=1000")


_ROWS: dict[tuple[str, tuple[str, ...]], list[_Row]] = {
    ("lr too low", ("lr too low",)): [
        ("adam 1e-7, lenet5", (_LENET, "optimizer.lr=1e-7"), None),
        ("sgd 1e-5", (_SGD, "optimizer.lr=1e-5"), None),
        ("adamw 1e-6, tiny", (_TINY, "optimizer=adamw", "optimizer.lr=1e-6"), None),
        ("momentum 1e-6, tanh", (_TANH, "optimizer=momentum", "optimizer.lr=1e-6"), None),
        ("rmsprop 1e-8", ("optimizer=rmsprop", "optimizer.lr=1e-8"), None),
        ("sgd 1e-4, lenet5", (_LENET, _SGD, "optimizer.lr=1e-4"), None),
    ],
    ("lr too high", ("lr too high", "exploding")): [
        ("adam 0.3, lenet5", (_LENET, "optimizer.lr=0.3"), None),
        ("sgd 20, tanh", (_TANH, _SGD, "optimizer.lr=20"), None),
        ("adam 1", ("optimizer.lr=1.0",), None),
        ("rmsprop 0.3, lenet5", (_LENET, "optimizer=rmsprop", "optimizer.lr=0.3"), None),
        ("adamw 0.5, tanh", (_TANH, "optimizer=adamw", "optimizer.lr=0.5"), None),
        ("nadam 0.5", ("optimizer=nadam", "optimizer.lr=0.5"), None),
    ],
    ("penalty too strong", ("penalty too strong",)): [
        ("l2 1, lenet5", (_LENET, "regularization=l2", "regularization.l2.strength=1.0"), None),
        ("l1 0.1", ("regularization=l1", "regularization.l1.strength=0.1"), None),
        ("adamw, weight_decay 100", ("optimizer=adamw", "optimizer.weight_decay=100"), None),
        ("l2 3, sgd", (_SGD, _SLOW, "regularization=l2", "regularization.l2.strength=3.0"), None),
        (
            "elastic net 0.3, tanh",
            (_TANH, "regularization=elastic_net", "regularization.elastic_net.strength=0.3"),
            None,
        ),
        (
            "decay on everything, lenet5",
            (_LENET, "optimizer=adamw", "optimizer.weight_decay=300", "parameters.decay_all=true"),
            None,
        ),
    ],
    ("vanishing", ("vanishing",)): [
        ("12 sigmoids", (*_DEEP, "model.blocks=12", "model.activation=sigmoid"), None),
        ("24 ReLU, torch's init", (*_DEEP, "model.blocks=24"), None),
        ("16 sigmoids, sgd", (*_DEEP, "model.blocks=16", "model.activation=sigmoid", _SGD), None),
        ("20 ReLU, momentum", (*_DEEP, "model.blocks=20", "optimizer=momentum"), None),
    ],
    ("exploding", ("exploding", "lr too high")): [
        (
            "sgd 1, He's init",
            (_SGD, "optimizer.lr=1.0", "model.channels=[32,64]", "model.init=he"),
            None,
        ),
        ("weights × 30", (_SGD, _SLOW), with_network(scaled(30.0))),
        ("momentum 3", ("optimizer=momentum", "optimizer.lr=3.0"), None),
        ("weights × 50, momentum", ("optimizer=momentum", _SLOW), with_network(scaled(50.0))),
    ],
    ("saturated", ("saturated",)): [
        ("tanh, weights × 100", (_LENET, "optimizer.lr=1e-4"), with_network(scaled(100.0))),
        ("tanh, weights × 300, sgd", (_TANH, _SGD, _SLOW), with_network(scaled(300.0))),
        ("tanh, weights × 200", (_TANH, "optimizer.lr=1e-4"), with_network(scaled(200.0))),
    ],
    ("dead", ("dead",)): [
        ("biases −10", (), with_network(negative_biases(-10.0))),
        ("biases −20, sgd", (_SGD, _SLOW), with_network(negative_biases(-20.0))),
        (
            "biases −5, three layers",
            ("model.channels=[8,8,8]",),
            with_network(negative_biases(-5.0)),
        ),
    ],
    ("labels shuffled", ("labels do not fit",)): [
        ("lenet5", (_LENET,), with_images(labels_to(shuffled), 1)),
        ("sgd", (_SGD, _SLOW), with_images(labels_to(shuffled), 2)),
        ("tanh", (_TANH,), with_images(labels_to(shuffled), 3)),
    ],
    ("labels constant", ("labels constant",)): [
        ("all 3", (), with_images(labels_to(constant), 3)),
        ("all 0, lenet5", (_LENET,), with_images(labels_to(constant), 0)),
    ],
    ("label noise", ("label noise",)): [
        ("half", ("trainer.max_epochs=3",), with_images(labels_to(noisy(0.5)), 1)),
        ("40 %, lenet5", (_LENET, "trainer.max_epochs=3"), with_images(labels_to(noisy(0.4)), 2)),
        ("60 %, tanh", (_TANH, "trainer.max_epochs=4"), with_images(labels_to(noisy(0.6)), 3)),
    ],
    ("images not normalised", ("images not normalised", "images constant")): [
        (
            "0…255, lenet5, sgd",
            (_LENET, _SGD, "optimizer.lr=0.1"),
            with_images(as_pixels(0.0, 1 / 255)),
        ),
        ("0…255, sgd", (_SGD, "optimizer.lr=0.1"), with_images(as_pixels(0.0, 1 / 255))),
        ("0 or 1 of 255", (_SGD, _SLOW), with_images(truncated)),
        ("mean 10, tanh", (_TANH, _SGD, "optimizer.lr=0.1"), with_images(as_pixels(-3.0, 0.03))),
    ],
    ("classes missing", ("classes missing",)): [
        ("labels from 1", (), with_images(from_one)),
        ("5 of 10", (_LENET,), with_images(of_some(5))),
        ("labels from 1, tanh", (_TANH,), with_images(from_one)),
        ("3 of 10", (), with_images(of_some(3))),
    ],
    ("duplicates", ("duplicates",)): [
        ("four times", (), with_images(repeated(4))),
        ("twice, lenet5", (_LENET,), with_images(repeated(2))),
    ],
    ("sorted batches", ("sorted batches",)): [
        ("adam", (), sorted_by_label),
        ("lenet5, sgd", (_LENET, _SGD, "optimizer.lr=0.1"), sorted_by_label),
    ],
    ("outputs squashed", ("outputs squashed",)): [
        ("softmax, sgd", (_SGD, _SLOW), with_network(softmax)),
        ("softmax, lenet5", (_LENET,), with_network(softmax)),
        ("softmax, tanh, sgd", (_TANH, _SGD, _SLOW), with_network(softmax)),
    ],
    ("frozen", ("frozen",)): [
        ("features and most", (_SGD, "optimizer.lr=1e-3", "parameters.frozen=[classifier]"), None),
        ("lenet5's linear layers", (_LENET, _SGD, "parameters.frozen=[classifier]", _SLOW), None),
    ],
    ("no gradient", ("no gradient",)): [
        ("no_grad, seed_cnn", (_SGD, _SLOW), with_network(cut)),
        ("no_grad, lenet5", (_LENET,), with_network(cut)),
    ],
    ("no update", ("no update",)): [
        ("one layer given", (_SGD, _SLOW), first_layer_only),
        ("one layer given, lenet5", (_LENET, _SGD, _SLOW), first_layer_only),
    ],
    ("tiny batch", ("tiny batch",)): [
        ("2, tiny", (_TINY, "data.batch_size=2", "data.train_size=600", "optimizer.lr=0.03"), None),
        (
            "2, resnet",
            (
                "model=resnet",
                "model.channels=[8,8]",
                "data.batch_size=2",
                "data.train_size=500",
                "optimizer.lr=0.03",
            ),
            None,
        ),
    ],
    ("dropout", ("dropout",)): [
        ("99 %", ("model.dropout=0.99", _SGD, _SLOW), None),
        ("spatial 95 %", ("model.spatial_dropout=0.95", "model.dropout=0.9"), None),
    ],
    ("random in evaluation", ("random in evaluation",)): [
        ("F.dropout 90 %", (), with_network(always_dropping(0.9))),
        ("F.dropout 80 %, lenet5", (_LENET,), with_network(always_dropping(0.8))),
    ],
    ("clipped", ("clipped",)): [
        (
            "norm 1e-5, sgd",
            (_SGD, "regularization=clip_norm", "regularization.clip.norm=1e-5"),
            None,
        ),
        (
            "norm 1e-4, lenet5",
            (_LENET, _SGD, "regularization=clip_norm", "regularization.clip.norm=1e-4"),
            None,
        ),
    ],
    ("weights constant", ("weights constant",)): [
        ("0", (), with_network(equal_weights(0.0))),
        ("0.01, lenet5", (_LENET,), with_network(equal_weights(0.01))),
    ],
    ("overfitting", ("overfitting",)): [
        ("60 images", ("data.train_size=60", "trainer.max_epochs=60"), None),
        ("100 images, lenet5", (_LENET, "data.train_size=100", "trainer.max_epochs=50"), None),
    ],
}

FAILING = tuple(
    Case(kind, name, overrides, alter, causes)
    for (kind, causes), rows in _ROWS.items()
    for name, overrides, alter in rows
)
