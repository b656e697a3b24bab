"""What is learned: data sources (the law P), losses L(y, yhat) and test functions phi(y, yhat)."""
