"""The article's network and settings in Keras on TensorFlow, the article's own system."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras  # the backend is chosen before the import
from keras import layers
from mnist import asked, parts, say

BATCH = 128


class Lines(keras.callbacks.Callback):
    """Say how far the training is."""

    def __init__(self) -> None:
        super().__init__()
        self.said = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Say once that the first step is done."""
        if not self.said:
            say("first step")
            self.said = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Say the accuracy on the images that were held out."""
        say("epoch", epoch + 1, (logs or {})["val_accuracy"])


def main() -> None:
    """Train, validate after each epoch, test at the end."""
    task = asked()
    keras.utils.set_random_seed(task.seed)
    network = keras.Sequential([keras.Input((28, 28, 1))])
    for c_out in (32, 64, 128, 256):
        network.add(layers.Conv2D(c_out, 3, padding="same", activation="relu"))
        network.add(layers.MaxPooling2D(2))
    network.add(layers.Flatten())
    network.add(layers.Dense(10))
    network.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    train, held_out, test = parts(task.data, task.seed)
    network.fit(
        train.images[..., None],
        train.labels,
        batch_size=BATCH,
        epochs=task.epochs,
        validation_data=(held_out.images[..., None], held_out.labels),
        callbacks=[Lines()],
        verbose=0,
    )
    _, accuracy = network.evaluate(test.images[..., None], test.labels, verbose=0)
    say("test", accuracy)


if __name__ == "__main__":
    main()
