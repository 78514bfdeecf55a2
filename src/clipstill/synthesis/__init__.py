"""Synthesis: the teacher is inverted, a group of images at a time.

``engine`` runs, ``objectives`` scores, ``views`` augments, ``natural`` knows networks with statistics of natural images.
"""
