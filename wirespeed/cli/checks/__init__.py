"""The checks of `wirespeed check`: they run the code that reads a document and collect what it rejects."""
