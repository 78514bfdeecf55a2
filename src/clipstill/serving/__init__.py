"""A bundle as a small HTTP service: starlette and uvicorn around the runtime, without torch.

``batching`` gathers photos, ``uploads`` reads requests and says what they may hold, ``app`` answers them, ``metrics``
counts.
"""
