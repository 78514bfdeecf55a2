"""From class names to a bundle: stages, the run folder, resume. The only package that knows several parts."""
