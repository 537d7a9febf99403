"""Figures: how long the suite's calls take, beside the floor that nothing goes below, and beside other plugins."""
