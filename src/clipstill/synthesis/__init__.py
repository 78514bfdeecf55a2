"""Synthesis: the teacher is inverted, a group of images at a time.

``engine`` runs, ``settings`` says how, ``objectives`` scores, ``views`` augments, ``natural`` knows networks with
statistics of natural images.
"""
