"""The synthetic images on disk: shards, the set read back, diversity, curation."""
