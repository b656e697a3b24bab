"""Many runs: launching them, side by side on one machine, and what they will take."""
