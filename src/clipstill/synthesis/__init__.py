"""Synthesis: images are optimised, a group at a time, until the teacher sees their classes in them."""
