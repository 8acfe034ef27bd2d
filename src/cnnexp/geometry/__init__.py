"""The positions of windows: shapes, strides and paddings of convolutions and poolings, as typed records."""
