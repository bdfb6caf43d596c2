"""A page in the browser: a photo, its features before and after upsampling, and what in it is alike."""
