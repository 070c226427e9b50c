"""The book: notebooks executed with other parameters, and the site that is built from them."""
