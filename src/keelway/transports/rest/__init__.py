"""REST: the door for inference (raw ASGI), and Starlette for everything else."""
