"""`python3 -m wirespeed` is the `wirespeed` command."""

from wirespeed.cli.main import main

if __name__ == "__main__":
    main()
