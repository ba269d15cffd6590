"""What training and tracking cost: speed, memory, and what a run will take."""
