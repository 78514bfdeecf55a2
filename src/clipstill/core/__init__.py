"""Shared by all parts: errors, registry, atomic files, seeds, device, progress, protocols."""
