"""What `wirespeed check` looks at: files, what they hold, and what the code that will read them says of it."""
