"""Recipes of the weights in ``assets/``: the embedded teachers and the embedded generator."""
