"""A generator among people: where it lies, a folder and a page of it, how it shows itself."""
