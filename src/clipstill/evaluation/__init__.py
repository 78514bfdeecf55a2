"""Evaluation: how often a classifier is right on a folder of real images, and how sure it is."""
