"""Distillation: a student learns the teacher's soft labels on augmented views of pictures."""
