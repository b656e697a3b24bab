"""How it learns: schedules xi(t), evaluation, the training loop."""
