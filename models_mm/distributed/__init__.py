"""The processes of a job: whether they live, what they tell one another, how they end."""
