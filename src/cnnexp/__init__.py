"""cnnexp: understand and optimise the back-propagation of convolutional networks."""

__version__ = "0.1.0"
