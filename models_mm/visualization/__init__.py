"""Results that people can look at: pictures of predictions, curves of training runs."""
