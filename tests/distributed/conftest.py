"""Fixtures of all tests of ranks and tasks."""

from distributed_fixtures import expected_shards, synthesis_only  # noqa: F401 (fixtures)
