"""What training costs: its speed against a plain loop, its memory, and what a run will take."""
