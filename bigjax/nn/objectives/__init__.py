"""What players minimise, and what is done to scores and features before they do."""
