"""`guard` over HTTP: wire formats, a queue, a worker. The only package that imports fastapi and uvicorn."""
