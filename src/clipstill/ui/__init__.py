"""The page of ``clipstill ui``: from class names to a bundle without a command line, on this machine alone.

``serve.serve`` starts it; it needs the extra ``ui`` (gradio), which nothing imports before that.
"""
