"""Nodes on which a check of `wirespeed doctor` fails: changes of the made node on which all of them hold."""
