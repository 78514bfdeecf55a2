"""A bundle as a small HTTP service: starlette and uvicorn around the runtime, without torch.

``limits`` has what a client may ask for, ``batching`` gathers photos, ``uploads`` reads requests, ``app`` answers them,
``metrics`` counts, ``server`` listens.
"""
