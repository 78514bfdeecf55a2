"""A bundle as a small HTTP service: starlette and uvicorn around the runtime, without torch."""
