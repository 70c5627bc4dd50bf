"""The lab's command line: `python launch.py --help`."""

from spam_lab.main import main

if __name__ == "__main__":
    raise SystemExit(main())
