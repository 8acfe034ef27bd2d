"""Softmax cross-entropy that keeps the probabilities and is given no gradient."""
import numpy as np


def forward(scores, y):
    e = np.exp(scores)
    probs = e / np.sum(e, axis=1, keepdims=True)
    return -np.mean(np.log(probs[range(len(y)), y])), probs


def backward(probs, y):
    one_hot = np.eye(probs.shape[1])[y]
    return (probs - one_hot) / len(y)
