"""What is read off finished runs: status, curves, convergence to the limit."""
