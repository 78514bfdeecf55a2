"""The page of ``clipstill ui``: from class names to a bundle without a command line, on this machine alone."""
