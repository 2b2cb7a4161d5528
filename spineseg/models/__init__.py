"""Networks: one file for each library that builds them."""
