"""Networks of torchvision × habits of their users × ways to compute them, against plain torch.

``networks`` makes the networks, ``habits`` uses them as people do, ``cells`` compares one network used
in one habit and computed in one way with the same of torch's own layers, ``cover`` chooses few cells
that cover much. tests/nn/test_torchvision_matrix.py runs these, and with ``-m long`` all of the small
networks; benchmarks/torchvision_matrix.py runs everything and writes the table.
"""
