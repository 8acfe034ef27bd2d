"""The trainings that benchmarks/verdict.py judges: failing ones of known causes, and healthy ones."""
