"""`python3 -m cli` is the `wirespeed` command."""

from cli.main import main

if __name__ == "__main__":
    main()
