"""`python -m asya` is the command `asya`."""

from asya.cli import main

if __name__ == "__main__":
    main()
