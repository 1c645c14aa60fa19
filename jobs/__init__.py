"""The launcher: plans, submits and watches grids of cells. Runs without torch."""
