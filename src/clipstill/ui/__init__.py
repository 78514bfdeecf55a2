"""The page of ``clipstill ui``: from class names to a bundle without a command line, on this machine alone.

``serve`` is the way in; it needs the extra ``ui`` (gradio). Nothing below imports gradio before ``serve`` is called.
"""
