"""Settings by name: one YAML file a recipe. ``default.yaml`` holds every setting; the others say what differs."""
