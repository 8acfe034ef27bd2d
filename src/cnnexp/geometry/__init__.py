"""Where windows stand: the shapes, steps and paddings of convolutions and poolings, as typed records."""
