"""``python -m unpicked`` is the same program as ``unpicked``."""

from unpicked.cli import main

if __name__ == "__main__":
    main()
