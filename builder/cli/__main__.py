"""``python -m builder.cli`` is ``goldsmith``."""

from builder.cli import main

if __name__ == "__main__":
    main()
