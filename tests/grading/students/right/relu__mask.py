"""ReLU with a mask of the input."""


def forward(x):
    return x * (x > 0)


def backward(grad_output, x):
    return grad_output * (x > 0)
