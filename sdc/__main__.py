"""``python -m sdc``."""

from sdc.cli import main

if __name__ == "__main__":
    main()
