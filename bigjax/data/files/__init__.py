"""Files of images as people have them: in folders and zips, with labels beside them."""
