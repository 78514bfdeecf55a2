"""Settings by name: one YAML file a recipe. Each says what differs from the defaults."""
