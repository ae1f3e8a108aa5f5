"""`python -m app` is the same as `proxima`."""

from app.cli import main

main()
