"""``python -m fogconv`` is the program ``fogconv``."""

from fogconv.cli.app import main

if __name__ == "__main__":
    main()
