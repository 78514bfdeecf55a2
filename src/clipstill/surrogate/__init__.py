"""The synthetic images on disk: records, shards, the set read back, diversity, curation."""
