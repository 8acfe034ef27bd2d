"""Mutation testing: are there tests that notice when a formula is changed?

``python -m tests.mutation`` changes one operator, number or name at a time and runs the tests of ops, nn and
proofs; a mutant that no test notices is a hole in the tests, or computes the same.
"""
