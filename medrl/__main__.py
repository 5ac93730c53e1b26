"""`python -m medrl`."""

from medrl.cli import main

if __name__ == "__main__":
    main()
