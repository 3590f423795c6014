"""``python -m xdreg``, the same as the command ``xdreg``."""

from xdreg.cli.main import main

if __name__ == "__main__":
    main()
