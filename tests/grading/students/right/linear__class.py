"""The linear layer as a class that keeps its gradients in a dict."""
import numpy as np


class Dense:
    def __init__(self, in_features, out_features):
        self.weights = np.random.randn(out_features, in_features)
        self.bias = np.zeros(out_features)
        self.grads = {}

    def forward(self, inputs):
        self.inputs = inputs
        return np.einsum("ni,oi->no", inputs, self.weights) + self.bias

    def backward(self, grad):
        self.grads = {"grad_weights": np.einsum("no,ni->oi", grad, self.inputs), "grad_bias": np.einsum("no->o", grad)}
        return np.einsum("no,oi->ni", grad, self.weights)
