"""What several stages and commands build from the parts: students, training data, class vectors."""
