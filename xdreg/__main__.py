"""The command ``xdreg``, as ``python -m xdreg``."""

from xdreg.cli.main import main

if __name__ == "__main__":
    main()
