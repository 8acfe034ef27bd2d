"""The article's network and settings in JAX: Flax for the layers, Optax for Adam, one compiled step."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from mnist import asked, parts, say

BATCH = 128


class Network(nn.Module):
    """Four blocks of convolution, ReLU and pooling, one linear layer."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (N, 10) of images (N, 28, 28, 1)."""
        for c_out in (32, 64, 128, 256):
            images = nn.max_pool(nn.relu(nn.Conv(c_out, (3, 3))(images)), (2, 2), (2, 2))
        return nn.Dense(10)(images.reshape(len(images), -1))


def main() -> None:
    """Train, validate after each epoch, test at the end."""
    task = asked()
    train, held_out, test = parts(task.data, task.seed)
    model, adam = Network(), optax.adam(1e-3)
    images, labels = jnp.asarray(train.images[..., None]), jnp.asarray(train.labels)
    weights = model.init(jax.random.key(task.seed), images[:1])
    state = adam.init(weights)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(weights: Any, state: Any, chosen: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss(weights: Any) -> jax.Array:
            logits = model.apply(weights, images[chosen])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(weights, updates), state, value

    @jax.jit
    def right(weights: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return (model.apply(weights, images).argmax(1) == labels).sum()

    def accuracy(part: Any) -> float:
        batches = range(0, len(part.labels), 1000)
        found = [
            right(weights, part.images[i : i + 1000, ..., None], part.labels[i : i + 1000])
            for i in batches
        ]
        return float(sum(found)) / len(part.labels)

    random = np.random.default_rng(task.seed)
    for epoch in range(1, task.epochs + 1):
        order = random.permutation(len(train.labels))
        for i in range(0, len(order) - BATCH + 1, BATCH):  # the rest would be compiled on its own
            weights, state, value = step(weights, state, order[i : i + BATCH])
            if epoch == 1 and i == 0:
                value.block_until_ready()
                say("first step")
        say("epoch", epoch, accuracy(held_out))
    say("test", accuracy(test))


if __name__ == "__main__":
    main()
