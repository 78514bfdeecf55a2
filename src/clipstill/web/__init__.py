"""What the page (``ui``) and the service (``serving``) share: listening, tokens and headers of answers."""
