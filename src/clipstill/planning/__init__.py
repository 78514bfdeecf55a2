"""What is known before a run: doubtful names, expected accuracy, time and memory."""
