"""``python -m mfrun`` is the same program as ``mfrun``."""

from mfrun.cli import main

if __name__ == "__main__":
    main()
