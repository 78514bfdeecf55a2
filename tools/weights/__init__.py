"""Recipes that make the weights stored in ``assets/``: the embedded teachers and the embedded generator.

A user never needs them; they are here so that every stored number can be made again.
"""
