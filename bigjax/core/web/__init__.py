"""What lies on other machines, and how it comes here."""
