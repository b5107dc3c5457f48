"""Networks: linen modules only, no loss, no optimizer, no config object."""
