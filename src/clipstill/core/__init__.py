"""What every part may use: errors, registry, atomic files, seeds, device, progress, protocols."""
