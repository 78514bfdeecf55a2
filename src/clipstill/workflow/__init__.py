"""What runs stages and knows none of them: settings, store, keys, cohorts."""
