"""How sources read: pictures from bytes, records by their number, folders by their files."""
