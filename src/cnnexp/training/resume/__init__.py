"""Resume a training exactly: its position, its checkpoint files, who writes them, the random numbers."""
