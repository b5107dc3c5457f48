"""What sources share: pictures, headers, records, lookups of images by number; a run's order."""
