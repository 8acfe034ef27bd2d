"""Healthy trainings: networks, optimisers, schedules, methods and data as people use them."""

from __future__ import annotations

from verdict_parts.altering import Case

_MODELS = {
    "seed_cnn": (),
    "lenet5": ("model=lenet5",),
    "tanh_cnn": ("model=tanh_cnn",),
    "tiny": ("model=tiny",),
}
_OPTIMIZERS = {
    "adam": (),
    "adamw": ("optimizer=adamw",),
    "sgd": ("optimizer=sgd", "optimizer.lr=0.1"),
    "momentum": ("optimizer=momentum", "optimizer.lr=0.02"),
}
_OTHERS: dict[str, tuple[str, ...]] = {
    "nesterov": ("optimizer=nesterov", "optimizer.lr=0.02"),
    "rmsprop": ("optimizer=rmsprop",),
    "nadam": ("optimizer=nadam",),
    "radam": ("optimizer=radam", "optimizer.lr=0.003"),
    "adagrad": ("optimizer=adagrad", "optimizer.lr=0.02"),
    "muon": ("optimizer=muon",),
    "one cycle": ("scheduler=onecycle", "optimizer.lr=0.01"),
    "warm-up and cosine": ("scheduler=warmup_cosine", "optimizer.lr=0.003"),
    "cosine, sgd": ("scheduler=cosine", "optimizer=sgd", "optimizer.lr=0.1"),
    "l2": ("regularization=l2",),
    "l1": ("regularization=l1",),
    "weight decay": ("optimizer=adamw", "optimizer.weight_decay=0.05"),
    "dropout": ("regularization=dropout",),
    "batch norm": ("regularization=batch_norm",),
    "group norm": ("model.norm=group", "model.channels=[8,16]"),
    "label smoothing": ("regularization=label_smoothing",),
    "mixup": ("regularization=mixup", "trainer.max_epochs=3"),
    "shifts": ("regularization=random_shift", "trainer.max_epochs=3"),
    "clipped at 1": ("regularization=clip_norm",),
    "averaged weights": ("regularization=ema", "trainer.max_epochs=3"),
    "batches of 8": ("data.batch_size=8", "data.train_size=1000"),
    "batches of 128": ("data.batch_size=128", "trainer.max_epochs=5", "optimizer.lr=0.003"),
    "He's init": ("model.init=he",),
    "orthogonal init": ("model.init=orthogonal",),
    "leaky ReLU": ("model.activation=leaky_relu",),
    "digits": ("data=digits", "data.batch_size=32", "data.val_size=144", "trainer.max_epochs=5"),
    "synthetic": ("data=synthetic", "data.size=2500", "data.val_size=500", "data.batch_size=32"),
    "half the classes": ("data.classes=[0,1,2,3,4]", "data.train_size=1500"),
    "two classes": ("data.classes=[3,5]", "data.train_size=1500"),
    "first layer frozen": ("parameters.frozen=[features.0]",),
    "four layers": ("model.channels=[8,8,16,16]", "trainer.max_epochs=3"),
    "no validation": ("data.val_size=0", "checkpoint.monitor=val/acc"),
}

HEALTHY = (
    *(
        Case("healthy", f"{model}, {optimizer}", (*of_model, *of_optimizer, f"seed={number}"))
        for number, (model, of_model) in enumerate(_MODELS.items(), 1)
        for optimizer, of_optimizer in _OPTIMIZERS.items()
    ),
    *(Case("healthy", name, overrides) for name, overrides in _OTHERS.items()),
)
